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


def finite(value: float | None) -> float | None:
    """Return a number that one can show and store; None for one that is undefined or infinite."""
    return value if value is not None and math.isfinite(value) else None


def diverged(values: Sequence[float]) -> int:
    """Return at how many clients the value is infinite."""
    return sum(math.isinf(value) for value in values)


def _defined(values: Sequence[float]) -> np.ndarray:
    return np.asarray([value for value in values if not math.isnan(value)])


# --- over clients and seeds -------------------------------------------------------------------


def hierarchical_interval(
    groups: Sequence[Sequence[float]], seed: int = 0, resamples: int = 9999
) -> tuple[float, float] | None:
    """Return a 95 % interval of the mean over seeds: hierarchical bootstrap, calibrated.

    Each resample draws seeds, and within each drawn seed clients, both with replacement. With few
    seeds its own percentiles are wrong in both directions: let A be the variance that a whole seed
    shares (one training) and E that of a client, S seeds and n clients. The mean's variance is
    (A + E/n)/S, that of the resamples (S-1)/S (A + E/n)/S + E/(n S): almost twice too large where
    A is small, too small where A is large. So the resamples give the interval's asymmetry, and its
    width is that of Student's t on the seeds' means, S - 1 degrees of freedom, which holds for any
    A and E. It is wide for two seeds (12.7 standard errors), as it must be.

    One seed says nothing of others: then the interval is over its clients, n - 1 degrees.

    Args:
        groups: For each seed, one value per client; undefined values (NaN) are left out.
        seed: Of the resampling.
        resamples: How many.

    Returns:
        The interval, or None for fewer than two values to evaluate by, or an infinite one.
    """
    from scipy.stats import t as student

    defined = _defined_groups(groups)
    units = _units(defined)
    if len(units) < 2 or not np.isfinite(units).all():
        return None
    centre = float(np.mean(units))
    half_width = float(student.ppf(0.975, len(units) - 1)) * _standard_error(units)
    draws = _resampled_means(defined, np.random.default_rng(seed), resamples)
    low, high = np.quantile(draws, [0.025, 0.975]) - centre
    stretch = 2 * half_width / (high - low) if high > low else 0.0
    return centre + float(low) * stretch, centre + float(high) * stretch


def mean_over_seeds(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the mean over seeds of the mean over clients; None if nothing is defined."""
    defined = _defined_groups(groups)
    return float(np.mean([np.mean(group) for group in defined])) if defined else None


def seeds_p_value(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the two-sided p-value of "the mean over seeds is 0": Student's t on seeds' means.

    Returns:
        The p-value; None for fewer than two seeds or an infinite value.
    """
    from scipy.stats import t as student

    defined = _defined_groups(groups)
    means = _units(defined)
    if len(defined) < 2 or not np.isfinite(means).all():
        return None
    error = _standard_error(means)
    if error == 0:
        return float(np.mean(means) == 0)
    return 2 * float(student.sf(abs(np.mean(means)) / error, len(means) - 1))


def wilcoxon_p_value(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the two-sided p-value of Wilcoxon's signed-rank test over all (seed, client) pairs.

    Not over per-client means: in most scenarios the seed deals the data, so client 3 of seed 0 and
    client 3 of seed 1 have nothing in common but the number. What the pairs of one seed do share
    is one training, which this test does not see; so it is never used without `seeds_p_value`.

    Args:
        groups: For each seed, one difference per client; infinite ones rank beyond all others.

    Returns:
        The p-value, 1 if all differences are 0; None if there are none.
    """
    from scipy.stats import wilcoxon

    defined = _defined_groups(groups)
    if not defined:
        return None
    values = np.concatenate(defined)
    if not values.any():
        return 1.0
    finite = np.isfinite(values)
    beyond = 1 + np.abs(values[finite]).max(initial=0.0)
    values = np.where(finite, values, np.sign(values) * beyond)
    return float(wilcoxon(values, zero_method="pratt").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for being several.

    The smallest of m is multiplied by m, the next by m - 1, ..., none smaller than the one before
    it. Holm. A Simple Sequentially Rejective Multiple Test Procedure. Scand. J. Statist. 6, 1979.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def student_factor(count: int) -> float:
    """Return how many standard errors a 95 % interval reaches with so many values."""
    from scipy.stats import t as student

    return float(student.ppf(0.975, count - 1))


def _resampled_means(
    groups: Sequence[np.ndarray], rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """Return the means of resamples of seeds, and of clients within each drawn seed."""
    seeds = len(groups)
    largest = max(len(group) for group in groups)
    table = np.stack([np.resize(group, largest) for group in groups])  # padding is never drawn
    sizes = np.array([len(group) for group in groups])
    batch = max(1, 4_000_000 // (seeds * largest))  # some 100 MB at a time
    means = []
    for start in range(0, resamples, batch):
        count = min(batch, resamples - start)
        chosen = rng.integers(seeds, size=(count, seeds, 1))
        size = sizes[chosen]
        clients = (rng.random((count, seeds, largest)) * size).astype(np.intp)
        counted = np.arange(largest) < size
        means.append(((table[chosen, clients] * counted).sum(-1) / size[..., 0]).mean(-1))
    return np.concatenate(means)


def _defined_groups(groups: Sequence[Sequence[float]]) -> list[np.ndarray]:
    return [values for values in map(_defined, groups) if len(values)]


def _units(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Return what varies independently: the seeds' means, or the clients of the only seed."""
    return groups[0] if len(groups) == 1 else np.array([np.mean(group) for group in groups])


def _standard_error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))
