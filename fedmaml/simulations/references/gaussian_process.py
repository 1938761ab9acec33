"""Gaussian processes: alone on a support, or with what the training clients' surfaces teach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients

Mean = Callable[[Tensor], Tensor]
Covariance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Process:
    """A Gaussian process, observed with noise.

    Attributes:
        mean: Inputs ``(rows, features)`` -> ``(rows,)``.
        covariance: Two sets of inputs -> ``(rows, others)``.
        noise: Variance of an observation.
    """

    mean: Mean
    covariance: Covariance
    noise: float

    def posterior(self, support: Batch, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the surface at some inputs, both ``(rows,)``, float64."""
        known, x = support.x.double(), x.double()
        between = self.covariance(known, x)
        root = torch.linalg.cholesky(self._of(known))
        left = torch.linalg.solve_triangular(root, between, upper=False)
        rest = (support.y.double() - self.mean(known))[:, None]
        right = torch.linalg.solve_triangular(root, rest, upper=False)
        own = self.covariance(x, x).diagonal()
        return self.mean(x) + (left.T @ right)[:, 0], (own - left.square().sum(0)).clamp(min=0)

    def log_evidence(self, examples: Batch) -> Tensor:
        """Return log N(y; mean, covariance + noise), a scalar."""
        x = examples.x.double()
        rest = examples.y.double() - self.mean(x)
        normal = torch.distributions.MultivariateNormal(torch.zeros_like(rest), self._of(x))
        found: Tensor = normal.log_prob(rest)  # type: ignore[no-untyped-call]
        return found

    def adapt(self, support: Batch) -> Predictor:
        """Return the posterior mean as a predictor."""
        known, y = support.x.double(), support.y.double()
        weights = torch.linalg.solve(self._of(known), y - self.mean(known))

        def predict(x: Tensor) -> Tensor:
            at = x.double()
            return (self.mean(at) + self.covariance(at, known) @ weights)[:, None].to(x.dtype)

        return predict

    def _of(self, x: Tensor) -> Tensor:
        return self.covariance(x, x) + self.noise * torch.eye(len(x), dtype=x.dtype)


def gaussian(variance: float, length: float) -> Covariance:
    """Return variance exp(-|x - x'|^2 / (2 length^2))."""

    def covariance(x: Tensor, other: Tensor) -> Tensor:
        return variance * torch.exp(-torch.cdist(x, other).square() / (2 * length**2))

    return covariance


def around_mean(support: Batch, covariance: Covariance, noise: float) -> Process:
    """Return a process whose mean is that of the support's targets."""
    mean = support.y.double().mean()
    return Process(lambda x: mean.expand(len(x)), covariance, noise)


def local_process(variance: float, lengths: Sequence[float], noise: float) -> Reference:
    """Return a Gaussian process on the support alone, around the support's mean.

    Args:
        variance: Of the surface.
        lengths: Of the covariance; the one that does best on validation clients is taken.
        noise: Variance of an observation.
    """

    def fit(_clients: TrainingClients, length: float) -> Adapt:
        covariance = gaussian(variance, length)
        return lambda support: around_mean(support, covariance, noise).adapt(support)

    about = "a Gaussian process on the support alone"
    grid = tuple({"length": length} for length in lengths)
    return Reference("Gaussian process, no archive", about, fit, grid=grid)


def fitted_process(
    clients: TrainingClients, variances: Sequence[float], lengths: Sequence[float], noise: float
) -> Process:
    """Return the process whose evidence is largest, the mean over training clients.

    Every training client sends its evidence under each setting, and no example; its constant mean
    is the mean of the training clients' targets.
    """
    mean = clients.mean(lambda examples: examples.y.double().mean())
    processes = [
        Process(lambda x: mean.expand(len(x)), gaussian(variance, length), noise)
        for variance, length in product(variances, lengths)
    ]
    evidence = clients.mean(
        lambda examples: torch.stack([each.log_evidence(examples) for each in processes])
    )
    return processes[int(evidence.argmax())]


def archive_process(clients: TrainingClients, prior: Process, share: float) -> Process:
    """Return the process with mean and covariance of the training clients' smoothed surfaces.

        f_i = posterior mean of client i's examples under the prior
        mean = mean f_i,     covariance = cov f_i + share * prior's

    Args:
        clients: Their examples are needed.
        prior: From `fitted_process`.
        share: Of the prior's covariance, for what no training client shows.
    """
    surfaces = [prior.adapt(examples) for examples in clients.examples()]

    def values(x: Tensor) -> Tensor:
        return torch.cat([surface(x) for surface in surfaces], 1)

    def covariance(x: Tensor, other: Tensor) -> Tensor:
        left = values(x)
        right = left if other is x else values(other)
        left, right = left - left.mean(1, keepdim=True), right - right.mean(1, keepdim=True)
        return left @ right.T / len(surfaces) + share * prior.covariance(x, other)

    return Process(lambda x: values(x).mean(1), covariance, prior.noise)
