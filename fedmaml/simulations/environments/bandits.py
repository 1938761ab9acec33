"""Bandits: two actions whose reward comes late, and arms that pay with unknown probabilities.

`DelayedBandit`: at step 0 choose 0 or 1, then wait; if it was the paying action, the reward 1
comes ``delay`` steps later. `BernoulliBandits`: every step pulls one of n arms, which pays 1 with
its own probability. Their references know that these are U(0, 1): `bayes_value` is the most that
any policy can expect, by dynamic programming, and `index_table` the index of Gittins and Whittle
for a given number of pulls left. Whittle. Multi-armed Bandits and the Gittins Index. JRSS B 42(2),
1980. Kaufmann. On Bayesian Index Policies for Sequential Resource Allocation. 2018.
arXiv:1601.01190.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from fedmaml.simulations.environments.base import Outcome, World


@dataclass(frozen=True)
class DelayedBandit:
    """The world: ``pays`` 0 or 1 and ``delay`` >= 1, both ``(episodes,)``.

    The state is (what was chosen, steps taken).

    Attributes:
        horizon: Steps; a reward later than that never comes.
    """

    horizon: int = 11
    chances: int = 0

    def begin(self, world: World) -> Tensor:
        """Return (nothing chosen, no step taken)."""
        return torch.stack([torch.full_like(world["delay"], -1.0), world["delay"] * 0], -1)

    def observe(self, world: World, state: Tensor, step: int) -> Tensor:
        """Return whether the choice is still to be made."""
        del world, step
        return (state[:, 1:] == 0).to(state.dtype)

    def step(self, world: World, state: Tensor, action: Tensor, chance: Tensor) -> Outcome:
        """Choose at step 0, wait at the others."""
        del chance
        chosen, taken = state.unbind(-1)
        chosen = torch.where(taken == 0, action.to(state.dtype), chosen)
        paid = (taken == world["delay"]) & (chosen == world["pays"])
        after = torch.stack([chosen, taken + 1], -1)
        return Outcome(after, paid.to(state.dtype), taken < world["delay"])


@dataclass(frozen=True)
class BernoulliBandits:
    """The world: ``pays``, the arms' probabilities, ``(episodes, arms)``.

    The state has the arm pulled last (one-hot) and its reward; a pull takes one uniform number.

    Attributes:
        horizon: Pulls.
        arms: Number of arms.
    """

    horizon: int = 10
    arms: int = 5
    chances: int = 1

    def begin(self, world: World) -> Tensor:
        """Return (no arm, no reward)."""
        return torch.cat([torch.zeros_like(world["pays"]), world["pays"][:, :1] * 0], -1)

    def observe(self, world: World, state: Tensor, step: int) -> Tensor:
        """Return the last arm, one-hot, its reward, and the share of pulls that is left."""
        del world
        left = torch.full_like(state[:, :1], (self.horizon - step) / self.horizon)
        return torch.cat([state, left], -1)

    def step(self, world: World, state: Tensor, action: Tensor, chance: Tensor) -> Outcome:
        """Pull the arm ``action``, int64 ``(episodes,)``."""
        pulled = (action[:, None] == torch.arange(self.arms, device=action.device)).to(state.dtype)
        won = (chance[:, 0] < (pulled * world["pays"]).sum(-1)).to(state.dtype)
        goes_on = torch.ones_like(won, dtype=torch.bool)
        return Outcome(torch.cat([pulled, won[:, None]], -1), won, goes_on)


def sampled_action(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return actions drawn with the probabilities softmax(logits), int64 ``(episodes,)``.

    Args:
        logits: ``(episodes, actions)``.
        uniform: In (0, 1), ``(episodes,)``: the same number gives the same action.
    """
    below = uniform[..., None] > logits.softmax(-1).cumsum(-1)
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)


def bayes_value(arms: int, pulls: int) -> float:
    """Return the most reward that any policy expects from arms with p ~ U(0, 1)."""

    @cache
    def value(known: tuple[tuple[int, int], ...], left: int) -> float:
        if left == 0:
            return 0.0
        best = 0.0
        for place, (wins, losses) in enumerate(known):
            if place and known[place - 1] == (wins, losses):
                continue  # the same as the one before
            p = (wins + 1) / (wins + losses + 2)
            others = known[:place] + known[place + 1 :]
            won = tuple(sorted((*others, (wins + 1, losses))))
            lost = tuple(sorted((*others, (wins, losses + 1))))
            best = max(best, p * (1 + value(won, left - 1)) + (1 - p) * value(lost, left - 1))
        return best

    return value(((0, 0),) * arms, pulls)


@lru_cache(maxsize=4)
def index_table(pulls: int, grid: int = 401) -> Tensor:
    """Return the index of an arm by (pulls left, wins, losses), ``(pulls + 1, pulls, pulls)``.

    The index is the sure reward for each pull at which to stop pulling at once is as good as to
    go on and stop later: of the values of a grid, the largest at which going on is strictly better.
    """
    sure = torch.linspace(0, 1, grid, dtype=torch.float64)
    value = torch.zeros(pulls + 1, pulls + 1, grid, dtype=torch.float64)
    table = torch.zeros(pulls + 1, pulls, pulls, dtype=torch.float64)
    for left in range(1, pulls + 1):
        known = pulls - left + 1  # an arm was pulled fewer times than that
        count = torch.arange(known, dtype=torch.float64)
        wins, losses = count[:, None], count[None, :]
        p = ((wins + 1) / (wins + losses + 2))[..., None]
        won, lost = value[1 : known + 1, :known], value[:known, 1 : known + 1]
        go_on, stop = p * (1 + won) + (1 - p) * lost, left * sure
        better = (go_on > stop + 1e-12).sum(-1).clamp(min=1) - 1
        table[left, :known, :known] = sure[better]
        value = torch.maximum(go_on, stop)
    return table
