"""Windows of prices: features of the past, positions, and what they earn after costs.

    sigma_t^2 = .94 sigma_{t-1}^2 + .06 r_t^2                    of daily returns r_t
    features  the last five r / sigma (the sigma of the day before), and the returns of 5, 10, 20
              and 60 days over sigma sqrt(days), clipped to +-5; all known at the close of day t
    position  a_t = tanh(policy(features_t)) min(.01 / sigma_t, 2), held over day t + 1
    earned    a_t r_{t+1} - costs |a_t - a_{t-1}|                the first trade is charged

No price of a later day enters a position. `Market` trades day by day.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmaml.simulations.environments.base import Outcome, World

DECAY, TARGET, MAX_LEVERAGE = 0.94, 0.01, 2.0
LOOK_BACK = 60
"""Days before the first day that has features."""

FEATURES = 9
_SHORT, _LONG, _CLIP = 5, (5, 10, 20, 60), 5.0


def volatility(returns: Tensor) -> Tensor:
    """Return sigma_t, ``(series, days)``, of daily returns in that shape; it starts at r_0."""
    variance = returns[:, 0] ** 2 + 1e-8
    found = [variance]
    for today in returns.unbind(1)[1:]:
        variance = DECAY * variance + (1 - DECAY) * today**2
        found.append(variance)
    return torch.stack(found, 1).sqrt()


def features(returns: Tensor, sigma: Tensor) -> Tensor:
    """Return what is known at the close of each day, ``(series, days, 9)``; 0 where too early."""
    before = torch.cat([sigma[:, :1], sigma[:, :-1]], 1)
    scaled = returns / before
    columns = [_shifted(scaled, lag) for lag in range(_SHORT)]
    total = returns.cumsum(1)
    columns += [(total - _shifted(total, days)) / (sigma * days**0.5) for days in _LONG]
    found = torch.stack(columns, -1).clamp(-_CLIP, _CLIP)
    found[:, :LOOK_BACK] = 0
    return found


def positions(policy: Tensor, sigma: Tensor) -> Tensor:
    """Return positions, in units of the wealth of one ticker, of a policy's outputs."""
    return torch.tanh(policy) * (TARGET / sigma).clamp(max=MAX_LEVERAGE)


def earned(position: Tensor, later: Tensor, costs: float) -> Tensor:
    """Return the earnings of each day after costs, ``(..., days)``.

    Args:
        position: a_t; the one before the first is 0.
        later: r_{t+1}.
        costs: Of a trade, a share of what is traded.
    """
    before = torch.cat([torch.zeros_like(position[..., :1]), position[..., :-1]], -1)
    return position * later - costs * (position - before).abs()


@dataclass(frozen=True)
class Market:
    """A window of days; world: ``features``, ``scale`` and ``later``, ``(episodes, days, ...)``.

    The state is (position held, day); an action is a share of the largest position.

    Attributes:
        horizon: Days.
        costs: Of a trade, a share of what is traded.
    """

    horizon: int = 20
    costs: float = 5e-4
    chances: int = 0

    def begin(self, world: World) -> Tensor:
        """Return (no position, the first day)."""
        return torch.zeros_like(world["scale"][:, :2])

    def observe(self, world: World, state: Tensor, step: int) -> Tensor:
        """Return the features of the day."""
        del state
        return world["features"][:, min(step, self.horizon - 1)]

    def step(self, world: World, state: Tensor, action: Tensor, chance: Tensor) -> Outcome:
        """Hold a position, ``(episodes, 1)`` in [-1, 1] of the largest one, over the next day."""
        del chance
        held, day = state[:, :1], state[:, 1:]
        scale, later = (world[name].gather(1, day.long()) for name in ("scale", "later"))
        position = action.clamp(-1, 1) * scale
        reward = position * later - self.costs * (position - held).abs()
        after = torch.cat([position, day + 1], 1)
        return Outcome(after, reward[:, 0], torch.ones_like(reward[:, 0], dtype=torch.bool))


def _shifted(values: Tensor, days: int) -> Tensor:
    """Return the values of that number of days ago; 0 where there are none."""
    if days == 0:
        return values
    return torch.cat([torch.zeros_like(values[:, :days]), values[:, :-days]], 1)
