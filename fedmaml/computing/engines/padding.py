"""Clients of many sizes in few groups: tasks are padded to common sizes, and the padding is masked.

Every group costs one dispatch: the time of a strategy's operations on almost no data. Every padded
row costs as much as a row of data. `merge_groups` finds the groups that minimise the sum.
"""

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedmaml.computing.engines.base import Job, Memories
from fedmaml.core.failures import contained
from fedmaml.core.params import device_of, map_params
from fedmaml.core.tasks import Task, TaskGroup, first_task, padded, rows_of
from fedmaml.core.trees import leaves, length, named
from fedmaml.strategies.base import steps_of, with_adaptation_steps

_SHAPES = 6
"""Up to this number of shapes (e.g. four hospitals) nothing is padded, and bits do not change."""

# Measured on one core with AVX-512, torch 2.13, float32, fomaml, 5 steps, up to 300 clients of 8 to
# 64 rows: 13-32-2 (0.001 megaflops a row, forward) takes 4.8 ms and 0.47 us more for each row,
# 64-90-90-10 (0.030 megaflops) 6.3 ms and 2.7 us. Only the ratio decides, and it hardly depends on
# the strategy: with 1 step, the first network takes 1.75 ms and 0.18 us.
_DISPATCH_US = 5_000.0
_ROW_US = 0.4
_ROW_US_PER_MEGAFLOP = 78.0

_megaflops: WeakKeyDictionary[nn.Module, dict[tuple[torch.Size, ...], float]] = WeakKeyDictionary()


def merge_groups(job: Job, groups: Sequence[TaskGroup], memories: Memories) -> Iterator[TaskGroup]:
    """Merge groups into fewer, padded and masked, where that is faster and valid.

    Depends on the job and on the sizes of the tasks only. It is valid for strategies that take all
    examples in every step and compute means and counts with `Learner` and `example_count` (others
    may count rows), and for networks and losses whose rows do not depend on each other.
    """
    families: dict[tuple[object, ...], list[TaskGroup]] = {}
    for group in groups:
        families.setdefault(_features(group), []).append(group)
    facts, steps = job.strategy.facts, steps_of(job.strategy)
    known = facts.takes_masks and not facts.draws and not any(own.batch for own in steps)
    for family in families.values():
        if len(family) <= _SHAPES or not known or not _rows_are_independent(job, family, memories):
            yield from family
            continue
        ordered = sorted(family, key=lambda group: (sum(_rows(group)), _rows(group)))
        sizes = [(len(group.clients), *_rows(group)) for group in ordered]
        row = _ROW_US + _ROW_US_PER_MEGAFLOP * _megaflops_of_a_row(job.learner.network, ordered[0])
        for first, last in cheapest_cuts(sizes, _DISPATCH_US / row):
            some = ordered[first:last]
            if len(some) == 1:
                yield some[0]
            else:
                support, query = (max(rows) for rows in zip(*map(_rows, some), strict=True))
                yield padded(some, support, query)


def cheapest_cuts(
    sizes: Sequence[tuple[int, int, int]], rows_of_a_dispatch: float
) -> list[tuple[int, int]]:
    """Cut a sequence so that ``groups * rows_of_a_dispatch + rows after padding`` is least.

    Args:
        sizes: (clients, support rows, query rows) of each shape, sorted by size.
        rows_of_a_dispatch: Number of rows that take as long as one more group.

    Returns:
        (first, last) of each piece, last not included.
    """
    counts, supports, queries = np.array(sizes).T[:, ::-1]  # reversed: pieces grow to the left
    best, cuts = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, dtype=int)
    for last in range(1, len(sizes) + 1):
        left = slice(len(sizes) - last, None)
        rows = np.maximum.accumulate(supports[left]) + np.maximum.accumulate(queries[left])
        total = best[:last][::-1] + rows_of_a_dispatch + np.cumsum(counts[left]) * rows
        best[last], cuts[last] = total.min(), last - 1 - total.argmin()
    pieces, last = [], len(sizes)
    while last:
        pieces.append((int(cuts[last]), last))
        last = int(cuts[last])
    return pieces[::-1]


def _rows(group: TaskGroup) -> tuple[int, int]:
    support, query = group.tasks
    return rows_of(support, 1), rows_of(query, 1)


def _features(group: TaskGroup) -> tuple[object, ...]:
    """Return a key; only tasks of equal key may be padded to one size."""
    common: list[object] = []
    for batch in group.tasks:
        for name, value in [*named(batch.x), *named(batch.y)]:
            # not 0: inputs or targets are missing, which is found out later
            surplus = value.shape[1] - rows_of(batch, 1)
            common += [name, value.shape[2:], value.dtype, value.shape[1] == 0, surplus]
    return tuple(common)


def _rows_are_independent(job: Job, family: Sequence[TaskGroup], memories: Memories) -> bool:
    """Test that padding a batch does not change predictions and losses, at a point without zeros.

    They change if the network normalises by statistics of the batch, for instance.
    """
    group = max(family, key=lambda group: min(_rows(group)))
    support, query = _rows(group)
    if any(all(map(_rows_are_equal, leaves(batch.x))) for batch in group.tasks):
        return False  # of equal rows, copies change nothing
    unadapted = with_adaptation_steps(job.strategy, 0)
    meta = {name: map_params(_moved, params) for name, params in job.meta.items()}
    memory = map_params(
        lambda value: _moved(value.to(device_of(job.meta))), memories[group.clients[0]]
    )

    def evaluated(task: Task) -> list[Tensor]:
        prediction = unadapted.adapt(job.learner, meta, memory, task.support)(task.query.x)
        loss = job.learner.problem.loss(prediction, task.query.y)
        return [*(value[:query] for value in leaves(prediction)), loss[:query]]

    with torch.no_grad():
        try:
            with contained():
                alone = evaluated(first_task(group.tasks))
                among = evaluated(first_task(padded([group], 2 * support, 2 * query).tasks))
        except Exception:  # e.g. a network for one size of batch
            return False
    return all(_close(one, other) for one, other in zip(alone, among, strict=True))


def _rows_are_equal(values: Tensor) -> bool:
    return bool((values[0] == values[0, :1]).all())


def _moved(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    offsets = torch.arange(value.numel(), dtype=value.dtype, device=value.device)
    return value + 0.1 * offsets.cos().view_as(value)


def _close(one: Tensor, other: Tensor) -> bool:
    """Return whether two results differ at most by rounding; False if they are not finite."""
    rounding = 1000 * torch.finfo(one.dtype).eps * one.abs().max()
    return one.shape == other.shape and bool(((one - other).abs() <= rounding).all())


def _megaflops_of_a_row(network: nn.Module, group: TaskGroup) -> float:
    """Return the operations of a network on one example, forward; counted once for a shape."""
    x = first_task(group.tasks).query.x
    known = _megaflops.setdefault(network, {})
    shape = tuple(value.shape[1:] for value in leaves(x))
    if shape not in known:
        try:
            with contained(), torch.no_grad(), FlopCounterMode(display=False) as counter:
                network(x)
            flops = counter.get_total_flops() / length(x)
        except Exception:  # the network cannot be counted: assume one use of each parameter
            flops = 2 * sum(value.numel() for value in network.parameters())
        known[shape] = flops / 1e6
    return known[shape]
