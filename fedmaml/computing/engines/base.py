"""The interface of engines: ways to compute the updates of many clients.

Every engine computes what the strategy's `client_update` defines, each client's update by itself.
Engines differ in how many clients share a kernel, and therefore in rounding only. `loop` is the
reference.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedmaml.core.aggregation import ExactSum
from fedmaml.core.engines import ABOUT
from fedmaml.core.learner import Learner
from fedmaml.core.params import MetaParams, Params, map_params
from fedmaml.core.requests import Form
from fedmaml.core.tasks import Task, TaskGroup
from fedmaml.core.trees import leaves
from fedmaml.strategies.base import ClientUpdate, MetaStrategy

Memories = Mapping[int, Params]
"""Client -> its memory."""

_BATCH_BYTES = 256 * 2**20
_MAX_CLIENTS = 512  # more are hardly faster, and leave less for workers to share


@dataclass(frozen=True)
class Job:
    """The computation that all clients of a request share.

    Attributes:
        strategy: The algorithm.
        learner: From its ``build``.
        meta: Meta-parameters.
        form: "stack" if every client's update is wanted, "sum" if their weighted sum will do.
    """

    strategy: MetaStrategy
    learner: Learner
    meta: MetaParams
    form: Form = "sum"

    def update(self, task: Task, memory: Params) -> ClientUpdate:
        """Compute one client's update; every engine must agree with it."""
        return self.strategy.client_update(self.learner, self.meta, memory, task)


class Rows(NamedTuple):
    """Updates client by client.

    Attributes:
        clients: Client numbers.
        results: A `ClientUpdate` whose tensors have a leading client axis.
        codes: group -> compressed updates as bytes, ``(clients, bytes)``; None if they are not.
    """

    clients: tuple[int, ...]
    results: ClientUpdate
    codes: dict[str, Tensor] | None = None


class Total(NamedTuple):
    """The weighted sum of updates, for strategies without memory.

    Attributes:
        clients: Clients whose updates are in the sum.
        weight: float64, ``(clients,)``.
        metrics: name -> ``(clients,)``.
        sums: group -> sum.
        unsound: Clients whose updates are not finite, or too large; not included above.
    """

    clients: tuple[int, ...]
    weight: Tensor
    metrics: dict[str, Tensor]
    sums: dict[str, ExactSum]
    unsound: tuple[int, ...] = ()


class Engine(ABC):
    """A way to compute updates.

    Attributes:
        name: In the catalogue.
        least_share: Fewest clients for which another process pays, if a client's update has the
            same bits in any chunk; 0 if it has not.
    """

    name: ClassVar[str]
    least_share: ClassVar[int] = 0

    @property
    def about(self) -> str:
        """One line for ``fedmaml list``."""
        return ABOUT[self.name]

    @abstractmethod
    def why_unsupported(self, job: Job) -> str:
        """Return why it cannot compute a job; "" if it can."""

    @abstractmethod
    def why_slow(self, job: Job) -> str:
        """Return why "auto" skips it as slow; "" if it is not slow. Depends on the job only."""

    @abstractmethod
    def client_batch(self, job: Job) -> int:
        """Return the number of clients per computation at which it is fastest."""

    def chunk_size(self, job: Job, clients: int, workers: int = 1, asked: int = 0) -> int:
        """Return how many of a request's clients are computed together.

        Args:
            job: The computation.
            clients: Number of clients in the request.
            workers: Processes that share them.
            asked: ``client_batch`` of the run; 0 or 1: the engine chooses.
        """
        size = asked if asked > 1 else self.client_batch(job)
        if not self.least_share:
            return size
        shares = max(1, min(workers, clients // self.least_share))
        return max(1, min(size, math.ceil(clients / shares)))

    @abstractmethod
    def compute(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories
    ) -> Iterator[Rows | Total]:
        """Yield the results of all clients, in parts of any size.

        Raises:
            Exception: Any error of the network. The caller finds out which client caused it.
        """


def select(group: TaskGroup, positions: Sequence[int]) -> TaskGroup:
    """Return some clients of a group."""
    rows = list(positions)
    tasks = tree_map(lambda value: value[rows], group.tasks)
    return TaskGroup(tuple(group.clients[row] for row in rows), tasks)


def stacked_memory(group: TaskGroup, memories: Memories) -> Params:
    """Return the memories of a group's clients with a leading client axis, where its tasks are."""
    each = [memories[client] for client in group.clients]
    device = leaves(group.tasks.support.y)[0].device
    return map_params(lambda *values: torch.stack(values).to(device), *each)


def batch_for_weights(learner: Learner) -> int:
    """Return how many clients' own weights fit: about eight copies of 8 bytes per entry."""
    entries = sum(value.numel() for value in learner.network.parameters())
    return max(1, min(_MAX_CLIENTS, _BATCH_BYTES // (64 * max(entries, 1))))


def without(groups: Sequence[TaskGroup], clients: set[int]) -> list[TaskGroup]:
    """Return groups without some clients."""
    rest = []
    for group in groups:
        positions = [i for i, client in enumerate(group.clients) if client not in clients]
        if positions:
            rest.append(select(group, positions))
    return rest
