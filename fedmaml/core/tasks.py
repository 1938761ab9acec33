"""Tasks: what a client adapts on (support) and is judged on (query).

A scenario hands tasks over in groups of equal shape, stacked along a leading client axis, so that
a whole group can go through one ``torch.func.vmap``.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Examples.

    Attributes:
        x: Inputs, shape ``(examples, *features)``.
        y: Targets, shape ``(examples, ...)``; class indices are int64.
    """

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """One client's learning problem: support to adapt on, query to be judged on."""

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


def joined(task: Task) -> Batch:
    """Return support and query together: all examples that a client holds in this round."""
    return Batch(
        torch.cat([task.support.x, task.query.x]), torch.cat([task.support.y, task.query.y])
    )


def example_count(batch: Batch) -> Tensor:
    """Return the number of examples as a float64 scalar, a tensor so that it passes vmap."""
    return torch.full((), batch.y.shape[0], dtype=torch.float64, device=batch.y.device)


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


def stack(tasks: Iterable[Task]) -> Task:
    """Stack tasks of equal shape along a new leading client axis."""
    supports, queries = zip(*tasks, strict=True)
    return Task(_stack_batches(supports), _stack_batches(queries))


def _stack_batches(batches: Iterable[Batch]) -> Batch:
    xs, ys = zip(*batches, strict=True)
    return Batch(torch.stack(xs), torch.stack(ys))


def first_task(tasks: Task) -> Task:
    """Return the first of stacked tasks."""
    return Task(*(Batch(*(tensor[0] for tensor in batch)) for batch in tasks))


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
