"""How sure a mean over clients is."""

from collections.abc import Sequence

import numpy as np


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """Return a 95 % bootstrap interval of the mean (percentile method, 9,999 resamples).

    Args:
        values: One per client; NaN (undefined at that client) is left out.
        seed: Of the resampling.

    Returns:
        The interval, or None for fewer than two values.
    """
    from scipy.stats import bootstrap

    finite = np.asarray([value for value in values if np.isfinite(value)])
    if len(finite) < 2:
        return None
    if np.ptp(finite) == 0:
        return float(finite[0]), float(finite[0])
    result = bootstrap(
        (finite,), np.mean, vectorized=True, axis=-1, n_resamples=9999,
        batch=max(1, 10_000_000 // len(finite)), method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = result.confidence_interval
    return float(low), float(high)


def finite_mean(values: Sequence[float]) -> float | None:
    """Return the mean of the finite values; None if there are none."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None
