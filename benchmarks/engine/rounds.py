"""What every contender computes: one round, clients' tasks in, their mean update out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.engine.workloads import Workload
from fedmaml.core.params import Params
from fedmaml.core.tasks import Batch, Task, joined

LR = 0.01
"""Step size of the inner loop."""

Algorithm = Literal["fomaml", "maml", "reptile", "meta_sgd", "anil", "fedrep", "protonet"]
OF_LIBRARIES = ("fomaml", "maml", "reptile")
"""What all the libraries' own examples do."""


@dataclass(frozen=True)
class Round:
    """One round's work.

    The result is the mean of the clients' updates as one flat tensor, weighted by the number of
    examples behind each as fedmaml weighs them (the plain mean where sizes are equal).

    Attributes:
        workload: Network and loss.
        algorithm: "maml" and "fomaml" send the gradient of the query loss after `steps` steps on
            the support set, exact or first order; "meta_sgd" the exact gradient in theta and in the
            rates of all entries, "anil" that of steps of the last layer alone; "reptile" steps on
            both and sends theta - phi; "fedrep" takes twice the steps with the last layer, on both,
            then steps with the others, and sends their difference; "protonet" sends the gradient
            of the query loss by distances to class means, without a last layer.
        steps: Gradient steps of the inner loop.
        tasks: One per client.
    """

    workload: Workload
    algorithm: Algorithm
    steps: int
    tasks: list[Task]

    def training(self, task: Task) -> Batch:
        """Return the examples that the inner loop sees."""
        return joined(task) if self._takes_all else task.support

    @property
    def _takes_all(self) -> bool:
        return self.algorithm in ("reptile", "fedrep")

    def weights(self) -> list[float]:
        """Return each client's share of the mean."""
        examples = [
            len(task.query.y) + (len(task.support.y) if self._takes_all else 0)
            for task in self.tasks
        ]
        return [count / sum(examples) for count in examples]

    def examples(self) -> int:
        """Return how many examples all clients hold."""
        return sum(len(batch.y) for task in self.tasks for batch in task)


Contender = Callable[[], Tensor]
"""Computes a round's mean update."""


class Seconds(NamedTuple):
    """Processor time of this process and wall time."""

    processor: float
    wall: float


class NotInstalledError(Exception):
    """A peer is not there; the text says what to install."""


class RefusedError(Exception):
    """A contender cannot compute this round; the text says why."""


def flat(tensors: list[Tensor] | Params) -> Tensor:
    """Lay tensors out as one."""
    values = tensors.values() if isinstance(tensors, dict) else tensors
    return torch.cat([value.detach().reshape(-1) for value in values])
