"""Decision processes with so few states and steps that all trajectories can be enumerated.

Two states, two actions, two steps, from state 0: eight trajectories (a0, s1, a1). The policy takes
action 1 in state s with probability sigmoid(theta_s). So expectations are sums of eight terms, and
what an estimator of a gradient yields in expectation is known to rounding.
`SmallProcess` plays them one by one, for any number of steps.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml.simulations.environments.base import Outcome, World

TRANSITION = torch.tensor([[0.2, 0.9], [0.7, 0.1]], dtype=torch.float64)
"""P(next state is 1 | state, action) of the process that the tests know exactly."""

REWARD = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
"""r(state, action) of it."""

_PATHS = torch.cartesian_prod(*[torch.arange(2)] * 3)


@dataclass(frozen=True)
class SmallProcess:
    """The world: ``transition`` and ``reward``, each ``(episodes, 2, 2)``; the state is 0 or 1.

    Attributes:
        horizon: Steps.
    """

    horizon: int = 2
    chances: int = 1

    def begin(self, world: World) -> Tensor:
        """Return state 0."""
        return torch.zeros_like(world["reward"][:, 0, :1])

    def observe(self, world: World, state: Tensor, step: int) -> Tensor:
        """Return the state."""
        del world, step
        return state

    def step(self, world: World, state: Tensor, action: Tensor, chance: Tensor) -> Outcome:
        """Take the action 0 or 1, int64 ``(episodes,)``."""
        place = (2 * state[:, 0].long() + action)[:, None]
        reward = world["reward"].flatten(1).gather(1, place)
        probable = world["transition"].flatten(1).gather(1, place)
        after = (chance[:, :1] < probable).to(state.dtype)
        return Outcome(after, reward[:, 0], torch.ones_like(reward[:, 0], dtype=torch.bool))


class Trajectories(NamedTuple):
    """All trajectories of some processes.

    Attributes:
        log_prob: Of the two actions, ``(processes, 8, 2)``.
        rewards: Of the two steps, ``(processes, 8, 2)``.
        prob: Of the trajectory, ``(processes, 8)``.
    """

    log_prob: Tensor
    rewards: Tensor
    prob: Tensor


def trajectories(theta: Tensor, transition: Tensor, reward: Tensor) -> Trajectories:
    """Enumerate trajectories.

    Args:
        theta: Of the policy, ``(2,)``.
        transition: P(next state is 1 | state, action), ``(processes, 2, 2)``.
        reward: r(state, action), ``(processes, 2, 2)``.
    """
    first, state, second = _PATHS.to(theta.device).unbind(-1)
    log_prob = torch.stack(
        [F.logsigmoid(_signed(first, theta[0])), F.logsigmoid(_signed(second, theta[state]))], -1
    )
    reached = transition[:, 0, :][:, first]
    moved = torch.where(state == 1, reached, 1 - reached)
    rewards = torch.stack([reward[:, 0, :][:, first], reward[:, state, second]], -1)
    return Trajectories(log_prob.expand_as(rewards), rewards, moved * log_prob.sum(-1).exp())


def expected_return(theta: Tensor, transition: Tensor, reward: Tensor) -> Tensor:
    """Return J(theta) of each process, differentiable, ``(processes,)``."""
    found = trajectories(theta, transition, reward)
    return (found.prob * found.rewards.sum(-1)).sum(-1)


def _signed(action: Tensor, logit: Tensor) -> Tensor:
    return torch.where(action == 1, logit, -logit)
