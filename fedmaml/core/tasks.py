"""Tasks: what a client adapts on (support) and is evaluated on (query).

A scenario hands tasks over in groups of equal shape, stacked along a leading client axis, so that
a whole group can go through one ``torch.func.vmap``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map


class Batch(NamedTuple):
    """Examples.

    Attributes:
        x: Inputs, shape ``(examples, *features)``.
        y: Targets, shape ``(examples, ...)``; class indices are int64.
    """

    x: Tensor
    y: Tensor


class PaddedBatch(NamedTuple):
    """A `Batch` with further rows that are not examples; only engines make them, for themselves.

    It is no field of `Batch`, so that a batch is a pair for everybody else.

    Attributes:
        x: Inputs; the padding holds copies of an example.
        y: Targets, likewise.
        mask: Which rows are examples; bool, ``(rows,)``.
    """

    x: Tensor
    y: Tensor
    mask: Tensor


class Task(NamedTuple):
    """One client's learning problem: support to adapt on, query to be evaluated on."""

    support: Batch
    query: Batch


class TaskGroup(NamedTuple):
    """Tasks of equal shape.

    Attributes:
        clients: Client numbers, one for each entry of the leading axis.
        tasks: A task whose tensors have the shape ``(clients, examples, ...)``.
    """

    clients: tuple[int, ...]
    tasks: Task


def mask_of(batch: Batch) -> Tensor | None:
    """Return which rows are examples, bool, ``(rows,)``; None if all are."""
    return getattr(batch, "mask", None)


def joined(task: Task) -> Batch:
    """Return support and query together: all examples that a client holds in this round."""
    return type(task.support)(*map(torch.cat, zip(*task, strict=True)))


def example_count(batch: Batch) -> Tensor:
    """Return the number of examples as a float64 scalar, a tensor so that it passes vmap."""
    mask = mask_of(batch)
    if mask is not None:
        return mask.sum(dtype=torch.float64)
    return torch.full((), batch.y.shape[0], dtype=torch.float64, device=batch.y.device)


def padded(groups: Sequence[TaskGroup], support: int, query: int) -> TaskGroup:
    """Make one group of several: every task gets so many rows, as many as it has or more.

    What is missing are copies of the client's first example.

    Returns:
        Tasks of `PaddedBatch`, though the type says `Batch`, in whose place they may stand where
        rows are not counted: `mask_of` and `example_count` tell.
    """
    supports, queries = zip(*(group.tasks for group in groups), strict=True)
    clients = tuple(client for group in groups for client in group.clients)
    return TaskGroup(clients, Task(_padded(supports, support), _padded(queries, query)))


def _padded(batches: Sequence[Batch], rows: int) -> Batch:
    def filled(tensors: Sequence[Tensor]) -> Tensor:
        first = torch.cat([tensor[:, :1] for tensor in tensors])
        whole = first.repeat(1, rows, *[1] * (first.ndim - 2))
        for part, tensor in zip(torch.split(whole, [*map(len, tensors)]), tensors, strict=True):
            part[:, : tensor.shape[1]] = tensor
        return whole

    xs, ys = zip(*batches, strict=True)
    counts = torch.tensor([y.shape[1] for y in ys for _ in range(len(y))], device=ys[0].device)
    mask = torch.arange(rows, device=counts.device) < counts[:, None]
    return PaddedBatch(filled(xs), filled(ys), mask)  # type: ignore[return-value]


def group_by_shape(tasks: Mapping[int, Task]) -> list[TaskGroup]:
    """Stack the tasks of equal shape; groups and clients keep the order of the mapping."""
    groups: dict[tuple[torch.Size, ...], list[int]] = {}
    for client, task in tasks.items():
        shape = tuple(tensor.shape for batch in task for tensor in batch)
        groups.setdefault(shape, []).append(client)
    return [
        TaskGroup(tuple(members), stack([tasks[client] for client in members]))
        for members in groups.values()
    ]


def unstack(group: TaskGroup) -> dict[int, Task]:
    """Return the single tasks of a group by client."""
    return {
        client: Task(*(Batch(x[row], y[row]) for x, y in group.tasks))
        for row, client in enumerate(group.clients)
    }


def first_shots(support: Batch, count: int, classes: int | None) -> Batch | None:
    """Return the first examples of a support set: so many of each class, or in all.

    Args:
        support: Examples whose order is that of chance, within a class where there are classes.
        count: How many, > 0.
        classes: Number of classes, if the targets are class indices; else None.

    Returns:
        The examples in their order; None if there are fewer, of every class where there are
        classes (a class may have fewer than another, or none).
    """
    x, y = support
    if classes is None:
        return Batch(x[:count], y[:count]) if len(y) >= count else None
    if len(y) == 0:
        return None
    of_each = F.one_hot(y.long(), classes).cumsum(0)
    rank = of_each.gather(1, y.long()[:, None])[:, 0]  # 1 for the first example of its class
    if int(rank.max()) < count:
        return None
    return Batch(x[rank <= count], y[rank <= count])


def stack(tasks: Iterable[Task]) -> Task:
    """Stack tasks of equal shape along a new leading client axis."""
    supports, queries = zip(*tasks, strict=True)
    return Task(_stack_batches(supports), _stack_batches(queries))


def _stack_batches(batches: Iterable[Batch]) -> Batch:
    xs, ys = zip(*batches, strict=True)
    return Batch(torch.stack(xs), torch.stack(ys))


def first_task(tasks: Task) -> Task:
    """Return the first of stacked tasks."""
    first: Task = tree_map(lambda tensor: tensor[0], tasks)
    return first


def cast(task: Task, dtype: torch.dtype, device: torch.device | None = None) -> Task:
    """Give all floating-point tensors of a task one dtype, class indices keep theirs; move them.

    Args:
        task: One task, or stacked ones.
        dtype: Of floating-point tensors.
        device: Where they go; None: where they are.
    """

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)

    return Task(*(Batch(*map(moved, batch)) for batch in task))
