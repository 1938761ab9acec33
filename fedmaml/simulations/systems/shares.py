"""Shares and what is known of them day by day: prices, or one of three controls.

positive   made-up returns with an autocorrelation of +.2 or -.2, by share: an edge to be found
negative   each share's own returns in random order, without their mean: nothing to be found
leak       features of the day after: what must set off an alarm
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.simulations.datasets import sp500
from fedmaml.simulations.environments import prices

SHARES, DAYS = 470, 1259
_PERSISTENCE, _DEVIATION = 0.2, 0.015  # of the positive control


class Panel(NamedTuple):
    """All shares, day by day.

    Attributes:
        features: ``(shares, days, 9)``.
        scale: Largest position, ``(shares, days)``.
        later: Return of the next day, ``(shares, days)``; 0 on the last.
    """

    features: Tensor
    scale: Tensor
    later: Tensor


@lru_cache(maxsize=8)
def panel(data: str, hedge: int, data_dir: str, seed: int) -> Panel:
    """Return what policies see and earn.

    Args:
        data: "sp500", "positive", "negative" or "leak".
        hedge: The mean return of that number of shares, the first in `order_of`, is taken from
            every return; 0: none is.
        data_dir: Folder with the prices.
        seed: Of the order of shares and of controls.
    """
    returns = _returns(data, data_dir, seed)
    if hedge:
        returns = returns - returns[order_of(seed)[:hedge]].mean(0)
    return panel_of(returns, leak=data == "leak")


def panel_of(returns: Tensor, *, leak: bool = False) -> Panel:
    """Return what policies see and earn, of daily returns ``(shares, days)``."""
    sigma = prices.volatility(returns)
    seen = prices.features(returns, sigma)
    later = torch.cat([returns[:, 1:], torch.zeros_like(returns[:, :1])], 1)
    if leak:
        seen = torch.cat([seen[:, 1:], seen[:, -1:]], 1)
    return Panel(seen, (prices.TARGET / sigma).clamp(max=prices.MAX_LEVERAGE), later)


def _returns(data: str, data_dir: str, seed: int) -> Tensor:
    """Return daily returns, ``(shares, days)``, 0 on the first day."""
    key = seeding.key(seed, "trading", data)
    if data == "positive":
        sign = 1 - 2 * (seeding.uniform(seeding.key(key, "sign"), range(SHARES)) < 0.5).double()
        found = [torch.zeros(SHARES, dtype=torch.float64)]
        for noise in seeding.normal(key, range(SHARES), DAYS - 1).unbind(1):
            found.append(_PERSISTENCE * sign * found[-1] + _DEVIATION * noise)
        return torch.stack(found, 1)
    close = torch.from_numpy(sp500.load(data_dir).close)
    returns = torch.cat([torch.zeros_like(close[:, :1]), close[:, 1:] / close[:, :-1] - 1], 1)
    if data == "negative":
        centred = returns[:, 1:] - returns[:, 1:].mean(1, keepdim=True)
        order = seeding.permutation(key, range(SHARES), DAYS - 1)
        returns = torch.cat([returns[:, :1], centred.gather(1, order)], 1)
    return returns


@lru_cache(maxsize=8)
def order_of(seed: int) -> Tensor:
    """Return the shares in random order, int64 ``(shares,)``."""
    return seeding.permutation(seeding.key(seed, "trading", "shares"), [0], SHARES)[0]
