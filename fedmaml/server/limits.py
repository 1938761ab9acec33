"""Limits on what one site contributes to a round: the norm of its update, its share of the mean.

A site is a node: what it sends in one reply counts as one update, the weighted mean of those of its
clients. Which sites are left out does not depend on the sites that are left out: the largest goes
first, and the median is then taken anew, so the others are treated as if it had been absent.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedmaml.core.aggregation import ExactSum, exact_sum
from fedmaml.core.records import Rejection
from fedmaml.core.requests import TrainReply

_ROUNDING = 1e-9

FEWEST_TO_COMPARE = 3
"""Of fewer replies nobody can say which one is too large."""


@dataclass(frozen=True)
class Limits:
    """What a round demands of its replies.

    Attributes:
        norm: Largest norm of a site's update, as a multiple of the median of the round; 0: any.
        share: Largest share of a site in the mean, from 0 to 1; num-examples above it count as
            fewer.
        quorum: Least clients whose updates a step needs.
    """

    norm: float = 10.0
    share: float = 1.0
    quorum: int = 0


def without_outliers(
    replies: Sequence[tuple[str, TrainReply]], limit: float
) -> tuple[list[tuple[str, TrainReply]], list[Rejection]]:
    """Leave out the replies whose update is too large for their round.

    Args:
        replies: Node and its reply.
        limit: As `Limits.norm`.
    """
    kept = list(replies)
    rejected: list[Rejection] = []
    if not limit or len(kept) < FEWEST_TO_COMPARE:
        return kept, rejected
    norms = [norm_of(reply) for _, reply in kept]
    while len(kept) >= FEWEST_TO_COMPARE:
        median = statistics.median(norms)
        largest = max(range(len(norms)), key=norms.__getitem__)
        if not median or norms[largest] <= limit * median:
            break
        (node, reply), norm = kept.pop(largest), norms.pop(largest)
        detail = (
            f"the norm of the update is {norm:.3g}, more than {limit:g} times the median of the "
            f"round, {median:.3g} (aggregation.largest_norm)"
        )
        rejected.append(Rejection("NORM", detail, node, tuple(sorted(reply.clients))))
    return kept, rejected


def norm_of(reply: TrainReply) -> float:
    """Return the Euclidean norm of the weighted mean of a reply's updates, all groups together."""
    weights = torch.tensor(reply.weights, dtype=torch.float64)
    means = (_mean(value, weights) for value in reply.update.values())
    return float(sum(float(mean.double().square().sum()) for mean in means) ** 0.5)


def capped(replies: Sequence[TrainReply], share: float) -> list[TrainReply]:
    """Return replies whose num-examples are so reduced that no site has more than its share.

    Reduced numbers are whole, and at least 1. With fewer sites than 1 / share all get the same.
    """
    totals = [sum(reply.weights) for reply in replies]
    most = _most(totals, share)
    return [
        reply if total <= most else _weighing(reply, most / total)
        for reply, total in zip(replies, totals, strict=True)
    ]


def _most(totals: Sequence[float], share: float) -> float:
    """Return the weight that no site may exceed, so that none has more than a share of the sum."""
    if share >= 1 or not totals:
        return float("inf")
    falling = sorted(totals, reverse=True)
    rest = sum(falling)
    for capped_sites, total in enumerate(falling):
        left = 1 - capped_sites * share
        if left <= 0:
            break
        if total <= share * rest / left:  # who is capped so far has share * rest / left
            return share * rest / left
        rest -= total
    return falling[-1]  # more sites than this cannot have so small a share: all get the same


def _weighing(reply: TrainReply, factor: float) -> TrainReply:
    weights = tuple(float(max(1, int(weight * factor + _ROUNDING))) for weight in reply.weights)
    sums = {
        group: exact_sum(value.mean()[None], torch.tensor([sum(weights)], dtype=torch.float64))
        for group, value in reply.update.items()
        if isinstance(value, ExactSum)
    }
    return replace(reply, weights=weights, update=sums or reply.update)


def _mean(value: Tensor | ExactSum, weights: Tensor) -> Tensor:
    if isinstance(value, ExactSum):
        return value.mean()
    return value[0] if len(value) == 1 else weights @ value.double() / weights.sum()
