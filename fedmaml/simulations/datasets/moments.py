"""Means and scales of columns from sums that every client sends once, without a row."""

from collections.abc import Mapping

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


LARGEST_RATIO = 1000.0
"""How many times the usual size of a column a client's may be: other units are other data."""

_ROUNDING = 1e-6


def unsound_sums(statistics: Mapping[int, Params]) -> dict[int, str]:
    """Return clients whose `sums` no data have, or only data of quite another size, and why.

    Args:
        statistics: Client -> ``count``, ``sum`` and ``squares``, and further vectors of a count, a
            sum and a sum of squares.
    """
    columns = {client: _columns(own) for client, own in statistics.items()}
    wrong = {client: why for client, own in columns.items() if (why := _impossible(*own))}
    sizes = {
        client: (squares / count.clamp(min=1)).sqrt()
        for client, (count, _, squares) in columns.items()
        if client not in wrong
    }
    if len(sizes) < 3:  # nobody knows which of two is the wrong one
        return wrong
    every = torch.stack(list(sizes.values()))
    usual = torch.where(every > 0, every, torch.nan).nanmedian(0).values
    for client, size in sizes.items():
        if bool((size > LARGEST_RATIO * usual).any()):
            wrong[client] = f"are more than {LARGEST_RATIO:g} times those of most other clients"
    return wrong


def _columns(own: Params) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts, sums and sums of squares of all columns."""
    triples = [(own["count"], own["sum"], own["squares"])]
    triples += [
        (value[0:1], value[1:2], value[2:3])
        for name, value in own.items()
        if name not in ("count", "sum", "squares")
    ]
    count, total, squares = zip(*triples, strict=True)
    return torch.cat(count), torch.cat(total), torch.cat(squares)


def _impossible(count: Tensor, total: Tensor, squares: Tensor) -> str:
    if bool((count < 0).any() | (count != count.round()).any()):
        return "have a count that is no whole number >= 0"
    if bool((squares < 0).any()):
        return "have a negative sum of squares"
    if bool((total.square() > (1 + _ROUNDING) * count * squares + _ROUNDING).any()):
        return "have a sum that is larger than count and squares allow"
    return ""
