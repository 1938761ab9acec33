"""Independent normal numbers: products of their densities, divergence, and draws."""

from typing import NamedTuple

from torch import Tensor


class Gaussian(NamedTuple):
    """Independent normal numbers.

    Attributes:
        mean: ``(numbers,)``.
        variance: In the same shape, > 0.
    """

    mean: Tensor
    variance: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """Return mean + deviation * noise, for standard normal noise of at least that length."""
        return self.mean + self.variance.sqrt() * noise[: len(self.mean)]

    def divergence(self) -> Tensor:
        """Return the Kullback-Leibler divergence from N(0, I), in nats."""
        terms = self.variance + self.mean.square() - 1 - self.variance.log()
        return terms.sum() / 2


def product_with_prior(mean: Tensor, variance: Tensor, mask: Tensor | None = None) -> Gaussian:
    """Return N(0, I) prod_i N(mean_i, variance_i), normalised; without a factor it is N(0, I).

    Args:
        mean: ``(factors, numbers)``.
        variance: In the same shape, > 0.
        mask: Which factors there are, ``(factors,)``; None: all.
    """
    precision = 1 / variance if mask is None else mask[:, None] / variance
    total = 1 + precision.sum(0)
    return Gaussian((precision * mean).sum(0) / total, 1 / total)
