"""Statistics of two strategies: paired differences, their interval and p-values."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fedmaml.core import statistics

K = TypeVar("K", bound=Hashable)

Values = Sequence[Mapping[int, float]]
"""For each seed, test client -> metric; NaN where undefined, infinite where diverged."""


@dataclass(frozen=True)
class Contrast:
    """The statistics of two strategies, before any correction.

    Attributes:
        mean: Mean of their paired differences; infinite if one of them diverged, None if there are
            no pairs.
        interval: Its 95 % interval.
        p_clients: Wilcoxon's signed-rank test over (seed, client) pairs; None if there are none.
        p_seeds: Student's t-test on the seeds' means; None for one seed.
        seeds: Number of compared seeds.
        clients: Most pairs that a seed has.
    """

    mean: float | None
    interval: tuple[float, float] | None
    p_clients: float | None
    p_seeds: float | None
    seeds: int = 1
    clients: int = 0

    @property
    def p(self) -> float | None:
        """The larger of the two: both tests must reject. None for one seed, which proves nothing.

        1 where several seeds were compared without a test, e.g. because one diverged.
        """
        if self.p_clients is None or self.seeds == 1:
            return None
        if self.p_seeds is None:
            return 1.0
        return max(self.p_clients, self.p_seeds)


NOTHING = Contrast(None, None, None, None)


def contrast(values: Values, others: Values) -> Contrast:
    """Compare two strategies, paired by seed and client."""
    groups = _paired(values, others)
    return Contrast(
        statistics.mean_over_seeds(groups),
        statistics.hierarchical_interval(groups),
        statistics.wilcoxon_p_value(groups),
        statistics.seeds_p_value(groups),
        len(groups),
        max((sum(not math.isnan(value) for value in group) for group in groups), default=0),
    )


def holm_within(contrasts: Mapping[K, Contrast]) -> dict[K, float]:
    """Return the corrected p-values of a family; those that have none are not part of it."""
    tested = {key: found.p for key, found in contrasts.items() if found.p is not None}
    return dict(zip(tested, statistics.holm(list(tested.values())), strict=True))


def _paired(values: Values, reference: Values) -> list[list[float]]:
    """Return value minus reference at the clients of each seed that have both."""
    return [
        [_difference(one[client], other[client]) for client in sorted(one.keys() & other.keys())]
        for one, other in zip(values, reference, strict=True)
    ]


def _difference(one: float, other: float) -> float:
    """Return one minus the other; infinite if either diverged: two that did are no tie."""
    return math.inf if math.isinf(one) and math.isinf(other) else one - other
