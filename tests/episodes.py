"""A scenario whose examples cost something: episodes in an environment, each measured once."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedmaml.client import worker_pool
from fedmaml.core import seeding
from fedmaml.core.counters import Counter
from fedmaml.core.learner import Problem
from fedmaml.core.losses import squared_error
from fedmaml.core.metrics import MEAN_SQUARED_ERROR
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.scenarios import CATALOGUE

EPISODE_STEPS = 20


@settings
class Episodes(Scenario):
    """Clients of 2 support episodes, or 2 + `more` if their number is odd, and 4 query episodes.

    Attributes:
        more: Further support episodes of odd clients.
        broken: The client at which measurements cannot be counted.
    """

    about: ClassVar[str] = "episodes with two counters, for tests"
    recipes: ClassVar[Recipes] = {"*": {"rounds": 3, "inner.steps": 1}, "fomaml": {"clients": 2}}

    seed: int = 0
    more: int = 1
    broken: int = -1

    def problem(self) -> Problem:
        def measurements(x: Tensor, y: Tensor) -> Tensor:
            if self.broken in x[:, 1].tolist():
                raise ValueError("a text that might quote data")
            return torch.ones_like(y).sum()

        return Problem(
            lambda: MLP((2, 4, 1), torch.tanh),
            squared_error,
            (MEAN_SQUARED_ERROR,),
            counters=(
                Counter("environment_steps", "steps of the environment, 20 an episode",
                        lambda _x, y: EPISODE_STEPS * len(y)),
                Counter("measurements", "returns measured, one an episode", measurements),
            ),
        )  # fmt: skip

    def clients(self) -> dict[Split, range]:
        return {"train": range(4), "validation": range(4, 6), "test": range(6, 9)}

    def statistics(self, client: int) -> Params:
        del client
        return {}

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        del split, round, shared_statistics
        return group_by_shape({client: self._task(client) for client in clients})

    def _task(self, client: int) -> Task:
        support = 2 + client % 2 * self.more
        x = seeding.normal(seeding.key(self.seed, "episodes"), [client], support + 4, 2)[0].float()
        x[:, 1] = client
        y = x[:, :1].sin()
        return Task(Batch(x[:support], y[:support]), Batch(x[support:], y[support:]))


# A worker process imports this module, as its function has to be found, and so knows the scenario.

_train, _evaluate = worker_pool._train, worker_pool._evaluate


def train_in_worker(*args: Any) -> Any:
    """Do what a worker does, with the scenario in its catalogue."""
    CATALOGUE["episodes"] = Episodes
    return _train(*args)


def evaluate_in_worker(*args: Any) -> Any:
    """Do what a worker does, with the scenario in its catalogue."""
    CATALOGUE["episodes"] = Episodes
    return _evaluate(*args)


def units(support: int, query: int) -> Mapping[str, Mapping[str, int]]:
    """Return what episodes cost, as files say it."""
    return {
        "environment_steps": {"support": 20 * support, "query": 20 * query},
        "measurements": {"support": support, "query": query},
    }
