"""Meta-gradients through episodes, compared with finite differences of the return itself.

Strategies send what DiCE gives on a decision process whose trajectories are all enumerated
(`simulations.scenarios.tabular`); the reference moves every parameter, and adapts by the gradient
of the exact expected return, in which no estimator has a part.
"""

import torch

from fedmaml.core.learner import Problem
from fedmaml.core.tasks import Batch, Task
from fedmaml.simulations.environments import tables
from fedmaml.simulations.scenarios.tabular import Tabular
from fedmaml.strategies.base import MetaStrategy


def process_task() -> Task:
    """Return the task of the decision process that the tests know: support and query are it."""
    x = {"transition": tables.TRANSITION[None], "reward": tables.REWARD[None]}
    batch = Batch(x, torch.zeros(1, dtype=torch.float64))
    return Task(batch, batch)


def process_problem(estimator: str) -> Problem:
    """Return the problem of such processes with an estimator, in float64."""
    return Tabular(estimator=estimator).problem().in_dtype("float64")  # type: ignore[arg-type]


def takes_episodes(strategy: MetaStrategy) -> bool:
    """Return whether a strategy sends the exact gradient through steps on the whole network.

    One with losses after each step has another objective than the return at the end.
    """
    kernel, adapts = strategy.facts.kernel, strategy.facts.adapts
    if kernel is None or adapts is None or kernel.step_weights:
        return False
    return kernel.sends == "exact" and adapts.moves == "all"
