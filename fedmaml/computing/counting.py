"""Counts the examples of a request's clients by the problem's counters; see `core.counters`."""

from collections.abc import Sequence

from fedmaml.computing.chunks import reject_raised
from fedmaml.computing.engines.base import without
from fedmaml.core.counters import Counted, Counter, count_units
from fedmaml.core.errors import FedmamlError
from fedmaml.core.records import Rejection
from fedmaml.core.tasks import TaskGroup, unstack


def count_examples(
    counters: Sequence[Counter], groups: Sequence[TaskGroup], rejected: list[Rejection]
) -> tuple[list[TaskGroup], dict[int, Counted]]:
    """Count client by client: tasks of equal shape may cost different units.

    Returns:
        The groups, without the clients at which a counter fails, and client -> units of its
        examples; empty if there are no counters.
    """
    counted: dict[int, Counted] = {}
    if not counters:
        return list(groups), counted
    failed: set[int] = set()
    for group in groups:
        for client, task in unstack(group).items():
            try:
                counted[client] = count_units(counters, task)
            except FedmamlError as error:
                reject_raised(error, (client,), "counting its examples", rejected)
                failed.add(client)
    return without(groups, failed) if failed else list(groups), counted
