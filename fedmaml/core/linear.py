"""Linear models of a network's features: ridge regression, and the posterior under a prior."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmaml.core.params import Params
from fedmaml.core.trees import Tree, leaves

_MIN_NOISE = 1e-8


def flat_inputs(x: Tree) -> Tensor:
    """Return all inputs of each example as one row, ``(examples, features)``."""
    return torch.cat([leaf.flatten(1) for leaf in leaves(x)], 1)


def head_matrix(head: Params) -> Tensor:
    """Return a linear head as one matrix, ``(features + 1, outputs)``; no bias is a bias of 0."""
    (weight,) = (value for value in head.values() if value.ndim == 2)
    bias = next(
        (value for value in head.values() if value.ndim == 1), weight.new_zeros(len(weight))
    )
    return torch.cat([weight.T, bias[None]])


def with_ones(x: Tensor) -> Tensor:
    """Append a column of ones: ``(examples, features)`` -> ``(examples, features + 1)``."""
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def ridge(x: Tensor, y: Tensor, strength: Tensor | float) -> Tensor:
    """Return argmin_W ||x W - y||^2 + strength ||W||^2, ``(features, outputs)``.

    The smaller of two equal forms is solved: (x'x + s I)^-1 x'y or x'(xx' + s I)^-1 y. Rows of
    zeros in both x and y change nothing.

    Args:
        x: ``(examples, features)``.
        y: ``(examples, outputs)``.
        strength: Scalar, > 0.
    """
    examples, features = x.shape
    if examples < features:
        return x.T @ torch.linalg.solve(_with_diagonal(x @ x.T, strength), y)
    return torch.linalg.solve(_with_diagonal(x.T @ x, strength), x.T @ y)


def _with_diagonal(matrix: Tensor, added: Tensor | float) -> Tensor:
    return matrix + added * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


@dataclass(frozen=True)
class Prior:
    """Weights w ~ N(mean, spread) of y = z w + N(0, noise).

    Rows of zeros in z, with y = 0, change no posterior.

    Attributes:
        mean: ``(features,)``.
        spread: Covariance, ``(features, features)``.
        noise: Variance, a scalar; below 1e-8 it counts as that.
    """

    mean: Tensor
    spread: Tensor
    noise: Tensor

    def posterior(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of w given examples ``(examples, features)``."""
        gain = torch.linalg.solve(self._of_data(z), z @ self.spread).T
        return self.mean + gain @ (y - z @ self.mean), self.spread - gain @ z @ self.spread

    def negative_log_evidence(self, z: Tensor, y: Tensor, count: Tensor) -> Tensor:
        """Return -log N(y; z mean, z spread z' + noise I) / count, up to a constant.

        Args:
            z: ``(rows, features)``.
            y: ``(rows,)``.
            count: How many of the rows are examples; the others are zeros.
        """
        covariance, left = self._of_data(z), y - z @ self.mean
        fit = left @ torch.linalg.solve(covariance, left)
        padding = (len(z) - count) * self._noise.log()
        return (torch.linalg.slogdet(covariance).logabsdet - padding + fit) / (2 * count)

    @property
    def _noise(self) -> Tensor:
        return self.noise.clamp_min(_MIN_NOISE)

    def _of_data(self, z: Tensor) -> Tensor:
        return _with_diagonal(z @ self.spread @ z.T, self._noise)
