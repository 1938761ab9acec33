"""Numbers that describe a light curve, that distinguish kinds of variable stars.

With z = (m - mean) / sd of the magnitudes m and the periodogram

    P(f) = 2 |sum_j z_j exp(2 pi i f t_j)|^2 / n^2        (1 for a sine, on 3,000 frequencies)

`shape_of` takes the peak of P, its harmonics and the curve folded with it; `summary_of` takes what
catalogues give of every star.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FEATURES = 22
_POINTS = 250  # of a curve, at most; every second, third, ... is taken
_SLOWEST, _FASTEST, _COUNT = 1 / 800, 8.0, 3000  # cycles a day
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BINS = 8


def shape_of(days: NDArray[np.float64], magnitude: NDArray[np.float64]) -> Tensor:
    """Return 22 numbers that know nothing of brightness and position, float64.

    log sd, skewness, root of the kurtosis; five quantiles of z; log range of m; log of the peak's
    frequency, its power and those of twice and three times the frequency; roughness of the curve
    folded with the peak and of the curve in time; medians of z in eight bins of the folded phase,
    from the faintest bin on, less that one's.
    """
    t, m, z = _standardised(days, magnitude)
    frequency, power = peak(t, z)
    phase = (t * frequency) % 1
    numbers = [
        m.std(correction=0).log(),
        (z**3).mean(),
        (z**4).mean().sqrt(),
        *z.quantile(torch.tensor(_QUANTILES, dtype=z.dtype)),
        (m.max() - m.min()).log(),
        frequency.log(),
        power,
        *powers(t, z, frequency * torch.tensor([2.0, 3.0], dtype=z.dtype)),
        _roughness(z[phase.argsort(stable=True)]),
        _roughness(z),
    ]
    return torch.cat([torch.stack(numbers), _folded(phase, z)])


def summary_of(days: NDArray[np.float64], magnitude: NDArray[np.float64]) -> Tensor:
    """Return log10 of the period in days, range, skewness and excess kurtosis, float64 ``(4,)``."""
    t, m, z = _standardised(days, magnitude)
    frequency, _ = peak(t, z)
    spread = m.quantile(0.98) - m.quantile(0.02)
    return torch.stack([-frequency.log10(), spread, (z**3).mean(), (z**4).mean() - 3])


def peak(t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the frequency with the largest power, in cycles a day, and the power."""
    found = powers(t, z, _frequencies())
    best = found.argmax()
    return _frequencies()[best], found[best]


def powers(t: Tensor, z: Tensor, frequencies: Tensor) -> Tensor:
    """Return P at some frequencies."""
    # Turns less whole ones are exact in double precision; sines in single take a third of the time.
    angles = 2 * math.pi * torch.outer(frequencies, t).frac().float()
    parts = (angles.cos() @ z.float()).double(), (angles.sin() @ z.float()).double()
    return 2 * (parts[0].square() + parts[1].square()) / len(z) ** 2


@lru_cache(maxsize=1)
def _frequencies() -> Tensor:
    ends = math.log(_SLOWEST), math.log(_FASTEST)
    return torch.linspace(*ends, _COUNT, dtype=torch.float64).exp()


def _standardised(
    days: NDArray[np.float64], magnitude: NDArray[np.float64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return times from the first on, magnitudes, and magnitudes standardised; thinned out."""
    step = math.ceil(len(days) / _POINTS)
    t, m = torch.from_numpy(days[::step] - days[0]), torch.from_numpy(magnitude[::step])
    return t, m, (m - m.mean()) / m.std(correction=0)


def _roughness(z: Tensor) -> Tensor:
    """Return the mean squared difference of neighbours, in variances of unrelated points."""
    return z.diff().square().mean() / 2


def _folded(phase: Tensor, z: Tensor) -> Tensor:
    places = (phase * _BINS).long()
    medians = [z[places == place] for place in range(_BINS)]
    bins = torch.stack([own.median() if len(own) else z.new_zeros(()) for own in medians])
    faintest = int(bins.argmax())
    return (bins.roll(-faintest) - bins[faintest])[1:]
