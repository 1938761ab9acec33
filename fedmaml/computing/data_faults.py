"""Data that a client cannot learn from: found client by client, said in counts and never in values.

Labels are looked at before anything is computed, since a strategy that compares examples would
pass over a class that does not exist. Inputs are looked at in an evaluation, and in training only
where an update is not finite: a pass over all inputs would cost a small round much of its time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedmaml.computing.engines.base import without
from fedmaml.core.losses import IGNORED
from fedmaml.core.records import Rejection
from fedmaml.core.tasks import Batch, TaskGroup, rows_of, tensors_of


def of_known_classes(
    groups: Sequence[TaskGroup], classes: int | None, rejected: list[Rejection]
) -> list[TaskGroup]:
    """Return groups without the clients that have labels outside 0 .. classes - 1.

    Args:
        groups: Tasks.
        classes: Number of classes; None: labels are no classes.
        rejected: Gets the reasons.
    """
    if classes is None or all(_within(batch, classes) for group in groups for batch in group.tasks):
        return list(groups)
    of = f"labels that are none of the {classes} classes, which count from 0"

    def bad(batch: Batch) -> Tensor:
        if not _are_classes(batch):
            return torch.zeros(1, 1, dtype=torch.bool)
        known = (batch.y >= 0) & (batch.y < classes) | (batch.y == IGNORED)
        return _any_of_example(~known)

    return _without_bad(groups, bad, of, rejected)


def of_finite_numbers(groups: Sequence[TaskGroup], rejected: list[Rejection]) -> list[TaskGroup]:
    """Return groups without the clients that have NaN or infinity among their numbers."""
    if all(_has_finite_sums(batch) for group in groups for batch in group.tasks):
        return list(groups)
    return _without_bad(groups, _not_finite, "numbers that are not finite", rejected)


def with_causes(rejected: Sequence[Rejection], groups: Sequence[TaskGroup]) -> list[Rejection]:
    """Return rejections, those as NONFINITE with the fault of the client's data if there is one."""
    lost = {c for each in rejected if each.reason == "NONFINITE" for c in each.clients}
    found: list[Rejection] = []
    if lost:
        everyone = {client for group in groups for client in group.clients}
        of_finite_numbers(without(groups, everyone - lost), found)
    causes = {each.clients: each for each in found}
    return [
        replace(causes[each.clients], node=each.node) if each.clients in causes else each
        for each in rejected
    ]


def _are_classes(batch: Batch) -> bool:
    return isinstance(batch.y, Tensor) and not batch.y.is_floating_point() and batch.y.ndim > 1


def _within(batch: Batch, classes: int) -> bool:
    if not _are_classes(batch) or not batch.y.numel():
        return True
    least, most = torch.aminmax(batch.y)
    return int(least) >= 0 and int(most) < classes


def _has_finite_sums(batch: Batch) -> bool:
    """Return whether all sums are finite, so that all numbers are; a tenth of the time."""
    numbers = (value for value in tensors_of(batch) if value.is_floating_point())
    return all(bool(value.sum().isfinite()) for value in numbers)


def _not_finite(batch: Batch) -> Tensor:
    """Return which examples hold a number that is not finite, ``(clients, examples)``."""
    numbers = [value for value in tensors_of(batch) if value.is_floating_point()]
    found = [_any_of_example(~value.isfinite()) for value in numbers]
    return torch.stack(found).any(0) if found else torch.zeros(1, 1, dtype=torch.bool)


def _any_of_example(values: Tensor) -> Tensor:
    return values.flatten(2).any(2) if values.ndim > 2 else values


def _without_bad(
    groups: Sequence[TaskGroup],
    bad: Callable[[Batch], Tensor],
    what: str,
    rejected: list[Rejection],
) -> list[TaskGroup]:
    before = len(rejected)
    for group in groups:
        rejected += _rejections(group, [bad(batch) for batch in group.tasks], what)
    out = {client for each in rejected[before:] for client in each.clients}
    return without(groups, out) if out else list(groups)


def _rejections(group: TaskGroup, bad: Sequence[Tensor], what: str) -> Iterator[Rejection]:
    if not any(bool(rows.any()) for rows in bad):
        return
    counts = [rows.sum(1).expand(len(group.clients)).tolist() for rows in bad]
    sizes = [rows_of(batch, 1) for batch in group.tasks]
    for client, *own in zip(group.clients, *counts, strict=True):
        said = [
            f"{count} of its {size} {name} examples"
            for count, size, name in zip(own, sizes, ("support", "query"), strict=True)
            if count
        ]
        if said:
            detail = f"{' and '.join(said)} have {what}: correct these rows, or leave them out"
            yield Rejection("DATA", detail, "", (client,))
