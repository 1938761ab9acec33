"""The engines that take any network and any strategy: `loop` and `vmap`."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_map

from fedmaml.computing.engines.base import (
    Engine,
    Job,
    Memories,
    Rows,
    Total,
    batch_for_weights,
    select,
    stacked_memory,
)
from fedmaml.computing.engines.padding import merge_groups
from fedmaml.core.params import Params, count_entries, device_of
from fedmaml.core.tasks import Task, TaskGroup

R = TypeVar("R")

LARGE_CONVOLUTIONS = 8_000
"""Parameters of a network with convolutions, past which its clients are not taken together."""


class Loop(Engine):
    """One client after the other: the reference."""

    name: ClassVar[str] = "loop"
    least_share: ClassVar[int] = 1

    def why_unsupported(self, job: Job) -> str:
        return ""

    def why_slow(self, job: Job) -> str:
        return ""

    def client_batch(self, job: Job) -> int:
        """Return how many clients' tasks are made at a time."""
        return batch_for_weights(job.learner)

    def compute(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories
    ) -> Iterator[Rows | Total]:
        """Yield one client's update at a time."""
        for group in groups:
            for position in range(len(group.clients)):
                single = select(group, [position])
                yield Rows(single.clients, apply(job.update, single, memories))


class Vmap(Engine):
    """All clients of equal shape in one ``torch.func.vmap``, of many shapes padded to few.

    With padding, a client's rounding depends on the other clients of its computation.
    """

    name: ClassVar[str] = "vmap"

    def why_unsupported(self, job: Job) -> str:
        return ""  # only a trial shows it; if it fails, clients are computed one by one

    def why_slow(self, job: Job) -> str:
        """Return that large convolutions of a CPU are faster client by client.

        PyTorch computes those of many clients as one with groups. ms a client, vmap and loop:
        64 filters on 14 x 14 from 64, 3.7 and 3.0; Conv4 of 32 filters, maml, 125 and 42.
        """
        convolves = any(isinstance(part, nn.Conv2d) for part in job.learner.network.modules())
        if (
            convolves
            and device_of(job.meta).type == "cpu"
            and count_entries(job.meta) >= LARGE_CONVOLUTIONS
        ):
            return "convolutions of many clients at once are slow on a CPU"
        return ""

    def client_batch(self, job: Job) -> int:
        """Return how many clients' weights fit into memory."""
        return batch_for_weights(job.learner)

    def compute(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories
    ) -> Iterator[Rows | Total]:
        """Yield one group at a time."""
        for group in merge_groups(job, groups, memories):
            yield Rows(group.clients, apply(job.update, group, memories))


def apply(function: Callable[[Task, Params], R], group: TaskGroup, memories: Memories) -> R:
    """Compute a function of task and memory for a group; results have a leading client axis.

    A group of one is computed without vmap.
    """
    memory = stacked_memory(group, memories)
    if len(group.clients) > 1:
        return torch.func.vmap(function)(group.tasks, memory)
    first = tree_map(lambda value: value[0], (group.tasks, memory))
    return tree_map(lambda value: value[None], function(*first))
