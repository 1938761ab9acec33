"""Intervals of figures: they resample the units that vary independently.

These are clients; whole groups, where clients of a group share something (a region, a family, a
week); blocks of a metric's cells, where cells follow each other in time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedmaml.core.figures import CLIENT, Clients, Figure
from fedmaml.core.statistics import MIN_UNITS, Estimates, Interval, calibrated, stretched

RESAMPLES = 999
"""Resamples of every seed; each calls the figure's function."""


@dataclass(frozen=True)
class Resampled:
    """A figure at the clients of one seed, and at resamples of them.

    Attributes:
        value: The figure.
        draws: The figure of each resample, ``(resamples,)``; NaN where it is undefined.
        units: Number of independent units behind the value.
    """

    value: float
    draws: np.ndarray
    units: int

    def minus(self, other: "Resampled") -> "Resampled":
        """Return a paired difference: both need the same clients and the same draws."""
        return Resampled(self.value - other.value, self.draws - other.draws, self.units)

    @property
    def error(self) -> float:
        """Standard error; resamples of n units have (n - 1) / n of the variance."""
        if self.units < 2:
            return math.nan
        return float(np.std(self.known, ddof=1)) * math.sqrt(self.units / (self.units - 1))

    @property
    def known(self) -> np.ndarray:
        """The draws that are defined and finite."""
        return self.draws[np.isfinite(self.draws)]


def resample(
    figure: Figure, clients: Clients, seed: int = 0, resamples: int = RESAMPLES
) -> Resampled:
    """Return a figure and its resamples; the same clients and seed give the same draws.

    Args:
        figure: The figure.
        clients: Of one run; the figure's function decides what infinite or undefined values do.
        seed: Of the resampling.
        resamples: Number of resamples.
    """
    value, units = figure(clients), _units(figure, clients)
    rng = np.random.default_rng(seed)
    draws = np.full(resamples, math.nan)
    if math.isfinite(value):
        draws = np.array([figure(_drawn(figure, clients, units, rng)) for _ in draws])
    return Resampled(value, draws, int(figure.share * units + 1e-9))


def figure_interval(
    found: Sequence[Resampled], seed: int = 0, least: float = -math.inf
) -> Interval | None:
    """Return a 95 % interval of the mean over seeds of a figure.

    Half the width is `statistics.calibrated`, to either side. But a figure that is no mean may be
    biased: where groups do not differ at all, their gap is noise. The data hold this noise once and
    resamples hold it twice, so resamples show sqrt(2) - 1 of the bias. If they show more than
    chance explains, the interval covers both the percentiles, which are right where groups differ,
    and the value less its bias, which is right where they do not.

    Args:
        found: One for each seed.
        seed: Of the draws of seeds.
        least: Smallest possible value.

    Returns:
        The interval; None if a value is undefined or infinite, or rests on too few units.
    """
    if not found or not all(math.isfinite(one.value) and len(one.known) > 1 for one in found):
        return None
    estimates = Estimates(
        np.array([one.value for one in found]),
        np.array([one.error for one in found]),
        np.array([one.units - 1 for one in found]),
    )
    half_width = calibrated(estimates)
    if half_width is None:
        return None
    centre = float(estimates.values.mean())
    seen = float(np.mean([np.mean(one.known) - one.value for one in found]))
    chance = np.mean([np.std(one.known) for one in found]) / math.sqrt(
        sum(len(one.known) for one in found)
    )
    if abs(seen) <= 2 * chance:
        return max(least, centre - half_width), centre + half_width
    low, high = stretched(centre, half_width, _hierarchical_draws(found, seed))
    unbiased = centre - seen / (math.sqrt(2) - 1)
    return max(least, min(low, unbiased - half_width)), max(high, unbiased + half_width)


def within_p_value(found: Sequence[Resampled]) -> float | None:
    """Return the two-sided p-value of "the figure is 0", by what varies within seeds: Student's t.

    Returns:
        The p-value; None where there is no interval.
    """
    from scipy.special import stdtr

    if figure_interval(found) is None:
        return None
    several = [one for one in found if one.units > 1]
    error = math.sqrt(np.mean([one.error**2 for one in several]) / len(found))
    value = abs(float(np.mean([one.value for one in found])))
    if error == 0:
        return float(value == 0)
    return 2 * float(stdtr(sum(one.units - 1 for one in several), -value / error))


def why_no_interval(figure: Figure, units: int) -> str:
    """Return why a figure has no interval; "" if the number of its units is not the reason."""
    if units >= MIN_UNITS:
        return ""
    what = "clients" if figure.resampled == CLIENT else f"units of {figure.resampled!r}"
    return f"it rests on {units} {what}, and {MIN_UNITS} are needed"


def _units(figure: Figure, clients: Clients) -> int:
    """Return the number of units to resample."""
    if figure.resampled == CLIENT:
        return len(clients)
    if figure.resampled in clients.cells:
        return len(clients.cells[figure.resampled]) // figure.block
    return len(clients.rows(figure.resampled))


def _drawn(figure: Figure, clients: Clients, units: int, rng: np.random.Generator) -> Clients:
    """Draw as many units as there are, with replacement."""
    if figure.resampled == CLIENT:
        if not figure.within:
            return clients.take(rng.integers(len(clients), size=len(clients)))
        parts = clients.rows(figure.within).values()
        return clients.take(
            np.concatenate([part[rng.integers(len(part), size=len(part))] for part in parts])
        )
    if figure.resampled in clients.cells:  # blocks of a circle, so that every cell is as likely
        count = len(clients.cells[figure.resampled])
        starts = rng.integers(count, size=(-(-count // figure.block), 1))
        positions = ((starts + np.arange(figure.block)) % count).ravel()[:count]
        return clients.take_cells(figure.resampled, positions)
    members = list(clients.rows(figure.resampled).values())
    return clients.take(np.concatenate([members[i] for i in rng.integers(units, size=units)]))


def _hierarchical_draws(found: Sequence[Resampled], seed: int) -> np.ndarray:
    """Return means of resamples of seeds, each with a draw within every seed that was drawn."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(found), size=(10 * RESAMPLES, len(found)))
    draws = [one.known for one in found]
    return np.mean([_pick(draws, seeds, rng) for seeds in chosen.T], axis=0)


def _pick(draws: list[np.ndarray], seeds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    lengths = np.array([len(each) for each in draws])
    positions = (rng.random(len(seeds)) * lengths[seeds]).astype(np.intp)
    table = np.stack([np.resize(each, lengths.max()) for each in draws])
    return table[seeds, positions]
