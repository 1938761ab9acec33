"""How sure a mean over clients is.

A value may be NaN (undefined at that client, e.g. AUC of one class: left out) or infinite (the
client's model diverged: then the mean is infinite, too, and has no interval).
"""

import math
from collections.abc import Sequence

import numpy as np


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """Return a 95 % bootstrap interval of the mean (percentile method, 9,999 resamples).

    Args:
        values: One per client.
        seed: Of the resampling.

    Returns:
        The interval, or None for fewer than two values or an infinite one.
    """
    from scipy.stats import bootstrap  # a third of a second, needed once per run

    defined = _defined(values)
    if len(defined) < 2 or not np.isfinite(defined).all():
        return None
    if np.ptp(defined) == 0:
        return float(defined[0]), float(defined[0])
    result = bootstrap(
        (defined,),
        np.mean,
        vectorized=True,
        axis=-1,
        n_resamples=9999,
        batch=max(1, 10_000_000 // len(defined)),  # at most 80 MB of resamples at a time
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def mean_over_clients(values: Sequence[float]) -> float | None:
    """Return the mean of the defined values; None if there are none."""
    defined = _defined(values)
    return float(np.mean(defined)) if len(defined) else None


def diverged(values: Sequence[float]) -> int:
    """Return at how many clients the value is infinite."""
    return sum(math.isinf(value) for value in values)


def _defined(values: Sequence[float]) -> np.ndarray:
    return np.asarray([value for value in values if not math.isnan(value)])
