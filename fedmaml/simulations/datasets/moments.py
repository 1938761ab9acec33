"""Means and scales of columns from sums that every client sends once, without a row."""

import torch
from torch import Tensor

from fedmaml.core.params import Params


def sums(x: Tensor) -> Params:
    """Return counts, sums and sums of squares of the columns, float64 ``(columns,)``; NaN is none.

    Args:
        x: float64 ``(rows, columns)``.
    """
    known = ~x.isnan()
    value = x.nan_to_num(0.0)
    return {"count": known.sum(0).double(), "sum": value.sum(0), "squares": (value**2).sum(0)}


def moments(count: Tensor, total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation; 1 for what does not vary."""
    count = count.clamp(min=1)
    mean = total / count
    scale = (squares / count - mean**2).clamp(min=0).sqrt()
    return mean, torch.where(scale > 1e-8 * mean.abs().clamp(min=1), scale, 1.0)


def standardised(x: Tensor, totals: Params) -> Tensor:
    """Return (x - mean) / scale, and 0, the mean, where x is missing; totals are of `sums`."""
    mean, scale = moments(*(totals[name] for name in ("count", "sum", "squares")))
    return ((x - mean) / scale).nan_to_num(0.0)
