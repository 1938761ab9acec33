"""Uncertainty of figures over clients: intervals and tests.

A value may be NaN (undefined at that client, e.g. AUC of one class: left out) or infinite (the
client's model diverged: then the mean is infinite, too, and has no interval).

Three rules hold for every interval here. It needs at least `MIN_UNITS` clients; two have none, but
as many seeds have one, over seeds alone. With one seed it is about the clients of this training
only, not about another training. No interval over seeds is narrower than the clients of each seed
alone imply, see `calibrated`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MIN_UNITS = 3
"""Fewest clients (or groups, blocks) for an interval: two could agree by chance."""

_FEW_PAIRS = 50  # up to here Wilcoxon's test is exact; scipy.stats has the same bound
_RESAMPLES = 9999
_KEPT = 250_000_000  # most counts of drawn clients that are kept, a byte each

Interval = tuple[float, float]


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """Return a 95 % interval of the mean over the clients of one run; see `hierarchical_interval`.

    Args:
        values: One per client.
        seed: Of the resampling.

    Returns:
        The interval, or None for fewer than `MIN_UNITS` values or an infinite one.
    """
    return hierarchical_interval([values], seed)


def mean_over_clients(values: Sequence[float]) -> float | None:
    """Return the mean of the defined values; None if there are none."""
    defined = _defined(values)
    return float(np.mean(defined)) if len(defined) else None


def finite(value: float | None) -> float | None:
    """Return a finite number; None for one that is undefined or infinite."""
    return value if value is not None and math.isfinite(value) else None


def diverged(values: Sequence[float]) -> int:
    """Return at how many clients the value is infinite."""
    return sum(math.isinf(value) for value in values)


def _defined(values: Sequence[float]) -> np.ndarray:
    return np.asarray([value for value in values if not math.isnan(value)])


# --- over clients and seeds -------------------------------------------------------------------


@dataclass(frozen=True)
class Estimates:
    """A figure at every seed, with standard errors.

    Attributes:
        values: The figure, shape ``(seeds,)``.
        errors: Standard error of each, by the clients of that seed alone.
        degrees: Degrees of freedom of each error: units that were resampled, minus 1.
    """

    values: np.ndarray
    errors: np.ndarray
    degrees: np.ndarray


def hierarchical_interval(
    groups: Sequence[Sequence[float]], seed: int = 0, resamples: int = _RESAMPLES
) -> Interval | None:
    """Return a 95 % interval of the mean over seeds: hierarchical bootstrap, calibrated.

    Each resample draws seeds, and within each drawn seed clients, both with replacement. With few
    seeds its own percentiles are wrong in both directions: let A be the variance that a whole seed
    shares (one training) and E that of a client, S seeds and n clients. The mean's variance is
    (A + E/n)/S, that of the resamples (S-1)/S (A + E/n)/S + E/(n S): almost twice too large where
    A is small, too small where A is large. So the resamples give the interval's asymmetry, and
    `calibrated` its width.

    Args:
        groups: For each seed, one value per client; undefined values (NaN) are left out.
        seed: Of the resampling.
        resamples: Number of resamples.

    Returns:
        The interval; where no seed has `MIN_UNITS` values, that of the seeds' means. None if there
        are not as many seeds, either, or a value is infinite.
    """
    defined = _defined_groups(groups)
    if not defined or not np.isfinite(np.concatenate(defined)).all():
        return None
    if max(map(len, defined)) < MIN_UNITS:
        means = [float(np.mean(group)) for group in defined]
        return hierarchical_interval([means], seed, resamples) if len(means) >= MIN_UNITS else None
    half_width = calibrated(estimates_of_means(defined))
    if half_width is None:
        return None
    draws = _resampled_means(defined, seed, resamples)
    return stretched(float(np.mean([np.mean(group) for group in defined])), half_width, draws)


def estimates_of_means(groups: Sequence[np.ndarray]) -> Estimates:
    """Return every seed's mean over clients and its standard error; one client has none (NaN)."""
    return Estimates(
        np.array([np.mean(group) for group in groups]),
        np.array([_standard_error(group) if len(group) > 1 else math.nan for group in groups]),
        np.array([len(group) - 1 for group in groups]),
    )


def calibrated(found: Estimates) -> float | None:
    """Return half the width of a 95 % interval of the mean over seeds of a figure.

    One seed: Student's t with the degrees of freedom of its clients. Several: Student's t over the
    seeds' values, S - 1 degrees, which holds whatever trainings share. It is wide for two seeds
    (12.7 standard errors), as it must be. But few seeds may agree by chance, more closely than
    their clients allow: then, if the seeds' variance is less than the clients' own noise explains
    (F below `_agreement`), the width is what the clients within seeds imply. It is never less.

    Returns:
        Half the width; None if no seed has `MIN_UNITS` clients.
    """
    from scipy.special import fdtri, stdtrit

    seeds = len(found.values)
    known = found.degrees >= 1
    if not seeds or found.degrees.max() + 1 < MIN_UNITS:
        return None
    # A seed of one client lends the others' variance.
    variance, degrees = np.mean(found.errors[known] ** 2), int(found.degrees[known].sum())
    of_clients = float(stdtrit(degrees, 0.975) * math.sqrt(variance / seeds))
    if seeds == 1:
        return of_clients
    between = _standard_error(found.values)
    least = fdtri(seeds - 1, degrees, _agreement(seeds)) * variance / seeds
    if between**2 <= least:
        return of_clients
    return max(of_clients, float(stdtrit(seeds - 1, 0.975)) * between)


def _agreement(seeds: int) -> float:
    """Return the probability that seeds are taken to agree where they share nothing.

    The larger, the nearer to 95 % the coverage there (1 - .05 times this), and the lower where
    seeds differ about as much as clients' noise: with these values never below .93, calculated for
    normal values and many clients (tests/core/test_statistics.py).
    """
    return 0.3 if seeds == 2 else 0.6


def stretched(centre: float, half_width: float, draws: np.ndarray) -> Interval:
    """Return an interval of this width whose asymmetry is that of draws, ``(resamples,)``."""
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
    from scipy.special import stdtr

    means = np.array([np.mean(group) for group in _defined_groups(groups)])
    if len(means) < 2 or not np.isfinite(means).all():
        return None
    error = _standard_error(means)
    if error == 0:
        return float(np.mean(means) == 0)
    return 2 * float(stdtr(len(means) - 1, -abs(np.mean(means)) / error))


def wilcoxon_p_value(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the two-sided p-value of Wilcoxon's signed-rank test over all (seed, client) pairs.

    Not over per-client means: in most scenarios the seed distributes the data, so client 3 of seed
    0 and client 3 of seed 1 share nothing but the number. The pairs of one seed share one training,
    which this test does not see; so it is never used without `seeds_p_value`.

    Args:
        groups: For each seed, one difference per client; infinite ones rank beyond all others.

    Returns:
        The p-value, 1 if all differences are 0; None if there are none.
    """
    defined = _defined_groups(groups)
    if not defined:
        return None
    values = np.concatenate(defined)
    if not values.any():
        return 1.0
    finite = np.isfinite(values)
    beyond = 1 + np.abs(values[finite]).max(initial=0.0)
    values = np.where(finite, values, np.sign(values) * beyond)
    if len(values) <= _FEW_PAIRS:
        return _exact_wilcoxon(values)
    from scipy.stats import wilcoxon

    return float(wilcoxon(values, zero_method="pratt", method="asymptotic").pvalue)


def _exact_wilcoxon(values: np.ndarray) -> float:
    """Return the p-value over all signs of the ranks; equal values share the mean of their ranks.

    Zeros have ranks and no sign (Pratt). The number of signs for every sum of positive ranks comes
    one rank after the other; scipy.stats enumerates them, which takes a second.
    """
    _, place, count = np.unique(np.abs(values), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(count) - count + 1)[place]  # twice the ranks: whole numbers
    signs = np.ones(1)
    for rank in doubled[values != 0]:
        signs = np.pad(signs, (0, rank)) + np.pad(signs, (rank, 0))
    seen = doubled[values > 0].sum()
    tail = min(signs[: seen + 1].sum(), signs[seen:].sum())
    return float(min(1.0, 2 * tail / signs.sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number.

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
    """Return how many standard errors a 95 % interval of ``count`` values reaches."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 0.975))


def _resampled_means(groups: Sequence[np.ndarray], seed: int, resamples: int) -> np.ndarray:
    """Return the means of resamples of seeds, and of clients within each drawn seed."""
    sizes = tuple(len(group) for group in groups)
    shares = np.concatenate([group / (len(group) * len(groups)) for group in groups])
    few = sum(sizes) * resamples <= _KEPT
    draws = _kept_draws(sizes, seed, resamples) if few else _draws(sizes, seed, resamples)
    return np.concatenate([counts @ shares for counts in draws])


@lru_cache(maxsize=2)
def _kept_draws(sizes: tuple[int, ...], seed: int, resamples: int) -> list[np.ndarray]:
    """Return `_draws`, which all strategies of a comparison share: drawing is what takes long."""
    return list(_draws(sizes, seed, resamples))


def _draws(sizes: tuple[int, ...], seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield how often each client of each seed was drawn, ``(some resamples, clients)``."""
    rng, seeds, largest, clients = np.random.default_rng(seed), len(sizes), max(sizes), sum(sizes)
    size_of, first_of = np.array(sizes), np.cumsum([0, *sizes[:-1]])
    batch = max(1, 4_000_000 // (seeds * largest))  # some 100 MB at a time
    for start in range(0, resamples, batch):
        count = min(batch, resamples - start)
        chosen = rng.integers(seeds, size=(count, seeds, 1))
        size = size_of[chosen]
        drawn = (rng.random((count, seeds, largest)) * size).astype(np.intp) + first_of[chosen]
        drawn += clients * np.arange(count)[:, None, None]
        places = drawn[np.arange(largest) < size]
        counts = np.bincount(places, minlength=count * clients).reshape(count, clients)
        yield counts.astype(np.min_scalar_type(counts.max()))


def _defined_groups(groups: Sequence[Sequence[float]]) -> list[np.ndarray]:
    return [values for values in map(_defined, groups) if len(values)]


def _standard_error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))
