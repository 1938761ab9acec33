"""Clients dealt to training, validation and test, and examples to support and query."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations.scenario import Split

_TRAIN, _VALIDATION = 0.6, 0.15


def deal(clients: int) -> dict[Split, range]:
    """Return client numbers: 60 % train, 15 % validate, the others test; at least one of each."""
    train = max(1, round(_TRAIN * clients))
    validation = max(1, round(_VALIDATION * clients))
    return numbered(train, validation, clients - train - validation)


def numbered(train: int, validation: int, test: int) -> dict[Split, range]:
    """Return client numbers of each split, one split after the other, by their counts."""
    first_test = train + validation
    return {
        "train": range(train),
        "validation": range(train, first_test),
        "test": range(first_test, first_test + test),
    }


def first_as_support(clients: Sequence[int], x: Tensor, y: Tensor, shots: int) -> TaskGroup:
    """Return tasks whose support is each client's first examples, the others being the query.

    Args:
        clients: Client numbers.
        x: Inputs ``(clients, examples, ...)``.
        y: Targets ``(clients, examples, ...)``.
        shots: Support examples of a client.
    """
    support, query = Batch(x[:, :shots], y[:, :shots]), Batch(x[:, shots:], y[:, shots:])
    return TaskGroup(tuple(clients), Task(support, query))


def in_order(x: Tensor, y: Tensor, order: Tensor, shots: int, queries: int) -> Task:
    """Return one client's task: of its examples, in an order, ``shots`` and then ``queries``.

    Args:
        x: Inputs ``(examples, ...)``.
        y: Targets ``(examples, ...)``.
        order: Rows, int64 ``(examples,)``.
        shots: Support examples.
        queries: Query examples, at most.
    """
    chosen, others = order[:shots], order[shots : shots + queries]
    return Task(Batch(x[chosen], y[chosen]), Batch(x[others], y[others]))


def evenly(rows: Tensor, count: int) -> Tensor:
    """Return at most ``count`` of the rows, spread evenly, in their order."""
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count, dtype=torch.float64).round().long()]
