"""Tasks: what a client adapts on (support) and is evaluated on (query).

A scenario hands tasks over in groups of equal shape, stacked along a leading client axis, so that
a whole group can go through one ``torch.func.vmap``. Examples are trees (`core.trees`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedmaml.core.trees import Tree, describe, leaves, length, map_tree


class Batch(NamedTuple):
    """Examples.

    Attributes:
        x: Inputs, a tensor ``(examples, *features)`` or a flat mapping of such tensors.
        y: Targets, likewise; class indices are int64 ``(examples,)``.
    """

    x: Tree
    y: Tree


class DrawnBatch(NamedTuple):
    """A `Batch` with the noise that a strategy declares, one draw for the client.

    `Batch` itself has no field for it, so that a batch stays a pair elsewhere; `draws_of` reads it.

    Attributes:
        x: Inputs.
        y: Targets.
        draws: Name -> noise, see `core.draws`.
    """

    x: Tree
    y: Tree
    draws: dict[str, Tensor]


class PaddedBatch(NamedTuple):
    """A `Batch` with padding rows that are not examples; only engines make and see it.

    Attributes:
        x: Inputs; the padding holds copies of an example.
        y: Targets, likewise.
        mask: Which rows are examples; bool, ``(rows,)``; `mask_of` reads it.
    """

    x: Tree
    y: Tree
    mask: Tensor


class Task(NamedTuple):
    """One client's learning problem: support to adapt on, query to evaluate on."""

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


def draws_of(batch: Batch) -> dict[str, Tensor]:
    """Return the noise that the strategy declares, by name; see `core.draws`."""
    return getattr(batch, "draws", {})


def map_batch(function: Callable[..., Tensor], *batches: Batch) -> Batch:
    """Apply a function to the inputs and targets of the same name in each batch.

    Other fields of the first batch stay as they are.
    """
    xs, ys = [batch.x for batch in batches], [batch.y for batch in batches]
    return batches[0]._replace(x=map_tree(function, *xs), y=map_tree(function, *ys))


def map_fields(function: Callable[..., Tensor], *batches: Batch) -> Batch:
    """Apply a function to all tensors of the same name in each batch."""
    columns = zip(*batches, strict=True)
    return type(batches[0])(*(map_tree(function, *column) for column in columns))


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return all inputs and targets of a batch."""
    return leaves(batch.x) + leaves(batch.y)


def rows_of(batch: Batch, axis: int = 0) -> int:
    """Return the length of the axis of examples."""
    return length(batch.y, axis)


def part_of(batch: Batch, first: int, last: int) -> Batch:
    """Return the examples from ``first`` up to ``last``, not included."""
    return map_batch(lambda value: value[first:last], batch)


def joined(task: Task) -> Batch:
    """Return support and query together: all examples that a client holds in this round.

    In their order, those of the support first.
    """
    whole = map_batch(lambda *both: torch.cat(both), *task)
    if mask_of(task.support) is None:
        return whole
    masks = [mask for batch in task if (mask := mask_of(batch)) is not None]
    return whole._replace(mask=torch.cat(masks))  # type: ignore[call-arg]


def example_count(batch: Batch) -> Tensor:
    """Return the number of examples as a float64 scalar, a tensor so that it passes vmap."""
    mask = mask_of(batch)
    if mask is not None:
        return mask.sum(dtype=torch.float64)
    device = leaves(batch.y)[0].device
    return torch.full((), rows_of(batch), dtype=torch.float64, device=device)


def padded(groups: Sequence[TaskGroup], support: int, query: int) -> TaskGroup:
    """Make one group of several: pad every task to ``support`` and ``query`` rows.

    The padding holds copies of the client's first example.

    Returns:
        Tasks of `PaddedBatch`. The declared type is `Batch`, which they may replace wherever rows
        are not counted; `mask_of` and `example_count` know the difference.
    """
    supports, queries = zip(*(group.tasks for group in groups), strict=True)
    clients = tuple(client for group in groups for client in group.clients)
    return TaskGroup(clients, Task(_padded(supports, support), _padded(queries, query)))


def _padded(batches: Sequence[Batch], rows: int) -> Batch:
    def filled(*tensors: Tensor) -> Tensor:
        first = torch.cat([tensor[:, :1] for tensor in tensors])
        whole = first.repeat(1, rows, *[1] * (first.ndim - 2))
        for part, tensor in zip(torch.split(whole, [*map(len, tensors)]), tensors, strict=True):
            part[:, : tensor.shape[1]] = tensor
        return whole

    sizes = [(rows_of(batch, 1), length(batch.y)) for batch in batches]
    device = leaves(batches[0].y)[0].device
    counts = torch.tensor([own for own, clients in sizes for _ in range(clients)], device=device)
    mask = torch.arange(rows, device=device) < counts[:, None]
    whole = map_batch(filled, *batches)
    return PaddedBatch(whole.x, whole.y, mask)  # type: ignore[return-value]


def group_by_shape(tasks: Mapping[int, Task]) -> list[TaskGroup]:
    """Stack the tasks of equal shape; groups and clients keep the order of the mapping."""
    groups: dict[object, list[int]] = {}
    for client, task in tasks.items():
        shape = tuple(describe(tree) for batch in task for tree in batch)
        groups.setdefault(shape, []).append(client)
    return [
        TaskGroup(tuple(members), stack([tasks[client] for client in members]))
        for members in groups.values()
    ]


def unstack(group: TaskGroup) -> dict[int, Task]:
    """Return the single tasks of a group by client."""
    return {client: task_at(group.tasks, row) for row, client in enumerate(group.clients)}


def task_at(tasks: Task, row: int) -> Task:
    """Return one of stacked tasks."""
    return Task(*(map_fields(lambda value: value[row], batch) for batch in tasks))


def first_task(tasks: Task) -> Task:
    """Return the first of stacked tasks."""
    first: Task = tree_map(lambda tensor: tensor[0], tasks)
    return first


def first_shots(
    group: TaskGroup, count: int, classes: int | None
) -> tuple[list[TaskGroup], tuple[int, ...]]:
    """Cut supports down to their first examples: ``count`` of each class, or in all.

    Args:
        group: Tasks, whose support examples are in random order (within a class where there are
            classes).
        count: Number of examples, > 0.
        classes: Number of classes, if the targets are class indices; else None, as for a support
            in the order of time.

    Returns:
        The tasks with the examples in their order, in groups of equal shape; and the clients that
        have fewer examples, of every class where there are classes (a class may have fewer than
        another, or none).
    """
    support, rows = group.tasks.support, rows_of(group.tasks.support, 1)
    if classes is None:
        if rows < count:
            return [], group.clients
        smaller = map_batch(lambda value: value[:, :count], support)
        return [TaskGroup(group.clients, Task(smaller, group.tasks.query))], ()
    if rows == 0:
        return [], group.clients
    rank = _rank_in_class(support.y.long())
    sizes = (rank < count).sum(1)
    sizes[rank.amax(1) < count - 1] = 0
    missing = tuple(group.clients[row] for row in (sizes == 0).nonzero()[:, 0].tolist())
    groups = []
    for size in sorted({*sizes.tolist()}):
        if size:
            of_size = sizes == size
            chosen = (rank[of_size] < count).nonzero()[:, 1].view(-1, size)
            groups.append(_with_support(group, of_size.nonzero()[:, 0], chosen))
    return groups, missing


def _rank_in_class(y: Tensor) -> Tensor:
    """Return how many examples of its class stand before each example; both ``(clients, rows)``."""
    in_order, order = y.sort(dim=1, stable=True)
    place = torch.arange(y.shape[1], device=y.device).expand_as(y)
    begins = torch.ones_like(y, dtype=torch.bool)
    begins[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
    first = torch.where(begins, place, 0).cummax(1).values
    return torch.empty_like(y).scatter_(1, order, place - first)


def _with_support(group: TaskGroup, rows: Tensor, examples: Tensor) -> TaskGroup:
    """Return the clients in some rows of a group, each with the support examples named for it."""
    tasks = Task(*(map_fields(lambda value: value[rows], batch) for batch in group.tasks))
    along = torch.arange(len(rows), device=rows.device)[:, None]
    support = map_batch(lambda value: value[along, examples], tasks.support)
    clients = tuple(group.clients[row] for row in rows.tolist())
    return TaskGroup(clients, Task(support, tasks.query))


def stack(tasks: Iterable[Task]) -> Task:
    """Stack tasks of equal shape along a new leading client axis."""
    supports, queries = zip(*tasks, strict=True)
    return Task(_stack_batches(supports), _stack_batches(queries))


def _stack_batches(batches: Iterable[Batch]) -> Batch:
    return map_fields(lambda *values: torch.stack(values), *batches)


def cast(task: Task, dtype: torch.dtype, device: torch.device | None = None) -> Task:
    """Give all floating-point tensors of a task one dtype and move all; integers keep theirs.

    Args:
        task: One task, or stacked ones.
        dtype: Of floating-point tensors.
        device: Where they go; None: where they are.
    """

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)

    return Task(*(map_fields(moved, batch) for batch in task))
