"""A point in the plane that looks for a goal, with full or sparse rewards.

`PointNavigation`: x <- x + .1 clip(u, -1, 1), reward -|x - goal|, ends within .01 of the goal in
both coordinates. Finn, Abbeel, Levine. Model-Agnostic Meta-Learning. ICML 2017, section 5.3, by
the conventions of its code: the policy's output is clipped to [-1, 1], and then scaled by .1.

`HalfCircle`: x <- x + .1 tanh(u), the goal on the upper unit half circle; reward -|x - goal|, or
sparse, 1 - |x - goal| within ``radius``. Rakelly et al. PEARL. ICML 2019. arXiv:1903.08254.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmaml.simulations.environments.base import Outcome, World

_PACE, _ARRIVED = 0.1, 0.01


class _Point:
    """The world is ``goal``, ``(episodes, 2)``."""

    def begin(self, world: World) -> Tensor:
        """Return the origin."""
        return torch.zeros_like(world["goal"])


@dataclass(frozen=True)
class PointNavigation(_Point):
    """A point that sees its place alone; the world is ``goal``, ``(episodes, 2)``.

    Attributes:
        horizon: Steps.
    """

    horizon: int = 100
    chances: int = 0

    def observe(self, world: World, state: Tensor, step: int) -> Tensor:
        """Return the place alone."""
        del world, step
        return state

    def step(self, world: World, state: Tensor, action: Tensor, chance: Tensor) -> Outcome:
        """Move."""
        del chance
        place = state + _PACE * action.clamp(-1, 1)
        offset = place - world["goal"]
        return Outcome(place, -offset.norm(dim=-1), offset.abs().amax(-1) >= _ARRIVED)

    def best_return(self, goal: Tensor) -> Tensor:
        """Return what a straight line at full speed earns, ``(goals,)``."""
        return _straight(self, goal, torch.zeros_like(goal[..., 0], dtype=torch.bool))


@dataclass(frozen=True)
class HalfCircle(_Point):
    """A point whose goal lies on an arc and may be seen from near only; the same world.

    Attributes:
        horizon: Steps.
        radius: Within which a goal is noticed, > 0; 0: everywhere, by its distance.
        shown: Whether the goal is seen beside the place.
    """

    horizon: int = 20
    radius: float = 0.0
    shown: bool = False
    chances: int = 0

    def observe(self, world: World, state: Tensor, step: int) -> Tensor:
        """Return the place, and the goal if it is shown."""
        del step
        return torch.cat([state, world["goal"]], -1) if self.shown else state

    def step(self, world: World, state: Tensor, action: Tensor, chance: Tensor) -> Outcome:
        """Move."""
        del chance
        place = state + _PACE * torch.tanh(action)
        reward = -(place - world["goal"]).norm(dim=-1)
        seen = noticed(reward, self.radius)
        return Outcome(place, seen, torch.ones_like(reward, dtype=torch.bool))


def noticed(reward: Tensor, radius: float) -> Tensor:
    """Return what is seen of the reward -distance from near only: 1 - distance, or 0.

    Args:
        reward: Any shape.
        radius: Within which it is seen; 0: everywhere, as it is.
    """
    return torch.where(-reward < radius, 1 + reward, 0.0) if radius else reward


def goals_on_half_circle(angle: Tensor) -> Tensor:
    """Return goals, ``(..., 2)``, at angles in (0, pi)."""
    return torch.stack([torch.cos(angle), torch.sin(angle)], -1)


def straight_to(goal: Tensor, place: Tensor) -> Tensor:
    """Return the action of who knows the goal: each coordinate at full speed, then exactly."""
    return ((goal - place) / _PACE).clamp(-1, 1)


def _straight(environment: PointNavigation, goal: Tensor, done: Tensor) -> Tensor:
    place, total = torch.zeros_like(goal), torch.zeros_like(goal[..., 0])
    for _ in range(environment.horizon):
        action = straight_to(goal, place)
        place, reward, goes_on = environment.step({"goal": goal}, place, action, goal)
        total = total + torch.where(done, 0.0, reward)
        done = done | ~goes_on
    return total
