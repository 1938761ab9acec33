"""Curves with a few parameters: nonlinear least squares, and hierarchical Bayes around it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.linear import Prior
from fedmaml.core.tasks import Batch
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients

_MIN_SPREAD = 1e-4  # standard deviation of a parameter over clients, at least
_WITHIN = 4.0  # standard deviations of the grid to either side of a prior's mean
_MAX_EVALUATIONS = 200
_INSIDE = 1e-6  # a fit starts this far within its bounds


@dataclass(frozen=True)
class Family:
    """Curves y = function(parameters, x).

    Attributes:
        function: (``(..., parameters)``, x ``(rows,)``) -> ``(..., rows)``.
        guess: Parameters from which a fit starts.
        least: Smallest value of each parameter.
        most: Largest value of each.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    guess: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]

    def predictor(self, parameters: Tensor, weights: Tensor | None = None) -> Predictor:
        """Return one curve as a predictor, or the weighted mean of several."""

        def predict(x: Tensor) -> Tensor:
            curves = self.function(parameters, x[:, 0].double())
            mean = curves if weights is None else weights @ curves
            return mean[:, None].to(x.dtype)

        return predict

    def fitted(self, examples: Batch, prior: Prior | None = None) -> Tensor:
        """Return the parameters of the least squared error, or the mode of their posterior.

            argmin |y - f(phi, x)|^2 / noise + (phi - mean)' spread^-1 (phi - mean)

        Args:
            examples: x ``(rows, 1)``.
            prior: Of the parameters, with the noise; None: flat.
        """
        x, y = examples.x[:, 0].double(), examples.y.double()
        if prior is None:
            return _best_fit(self, tuple(x.tolist()), tuple(y.tolist()))
        scale = float(prior.noise) ** 0.5
        whiten = torch.linalg.inv(torch.linalg.cholesky(prior.spread))

        def rest(phi: Tensor) -> Tensor:
            misfit = self.function(phi, x) - y
            return torch.cat([misfit / scale, whiten @ (phi - prior.mean)])

        return _minimiser(self, rest, prior.mean.tolist())


@lru_cache(maxsize=4096)  # the training clients' fits serve several references
def _best_fit(family: Family, x: tuple[float, ...], y: tuple[float, ...]) -> Tensor:
    at, values = (torch.tensor(each, dtype=torch.float64) for each in (x, y))
    return _minimiser(family, lambda phi: family.function(phi, at) - values, family.guess)


def _minimiser(family: Family, rest: Callable[[Tensor], Tensor], start: Sequence[float]) -> Tensor:
    """Return argmin |rest(phi)|^2 within the family's bounds."""
    from scipy.optimize import least_squares  # 0.2 s

    least, most = np.array(family.least), np.array(family.most)
    found = least_squares(
        lambda phi: rest(torch.from_numpy(phi)).numpy(),
        np.clip(start, least + _INSIDE, most - _INSIDE),
        bounds=(least, most),
        max_nfev=_MAX_EVALUATIONS,
    )
    return torch.from_numpy(found.x)


def nonlinear_least_squares(family: Family) -> Reference:
    """Return the curve of the family that fits a client's support best."""

    def fit(_clients: TrainingClients) -> Adapt:
        return lambda support: family.predictor(family.fitted(support))

    return Reference("nonlinear least squares", "the curve that fits the support best", fit)


def mean_curve(family: Family) -> Reference:
    """Return the curve of the mean parameters of the training clients' fits."""

    def fit(clients: TrainingClients) -> Adapt:
        predictor = family.predictor(prior_of(family, clients).mean)
        return lambda _support: predictor

    return Reference("prior mean", "the curve of the training clients' mean parameters", fit)


def map_estimate(family: Family, noises: Sequence[float] = (1.0,)) -> Reference:
    """Return the curve of the posterior mode, under the prior that the training clients make.

    Args:
        family: The curves.
        noises: Factors of the noise's standard deviation; the best on validation clients is taken.
    """

    def fit(clients: TrainingClients, noise: float) -> Adapt:
        found = prior_of(family, clients)
        prior = Prior(found.mean, found.spread, found.noise * noise**2)
        return lambda support: family.predictor(family.fitted(support, prior))

    about = "the posterior mode under a normal prior of the training clients' own fits"
    return Reference("MAP", about, fit, grid=tuple({"noise": noise} for noise in noises))


def posterior_mean(family: Family, points: int = 41) -> Reference:
    """Return the mean curve of the posterior, under the prior that the training clients make.

    Args:
        family: The curves.
        points: Of the grid, along each parameter.
    """

    def fit(clients: TrainingClients) -> Adapt:
        prior = prior_of(family, clients)
        grid, density = normal_grid(len(prior.mean), points)
        at = prior.mean + grid @ torch.linalg.cholesky(prior.spread).T
        return weighted_curves(family, at, density, prior.noise)

    about = "the posterior's mean curve under a normal prior of the training clients' own fits"
    return Reference("hierarchical Bayes", about, fit)


def likely_curves(family: Family) -> Reference:
    """Return the mean of the training clients' fitted curves, weighted by their likelihood."""

    def fit(clients: TrainingClients) -> Adapt:
        own = torch.stack([family.fitted(examples) for examples in clients.examples()])
        noise = prior_of(family, clients).noise
        return weighted_curves(family, own, own.new_zeros(len(own)), noise)

    about = "the training clients' fitted curves, weighted by their likelihood"
    return Reference("likely training curves", about, fit, federated=False)


def prior_of(family: Family, clients: TrainingClients) -> Prior:
    """Return mean and covariance of the training clients' fits, and the noise around them.

        phi_i = least squares on the examples of client i,     r_i its rest
        noise = sum |r_i|^2 / sum (n_i - parameters)

    Every training client sends phi_i, phi_i phi_i', |r_i|^2 and n_i once, and no example.
    """

    def summary(examples: Batch) -> Tensor:
        own = family.fitted(examples)
        rest = family.function(own, examples.x[:, 0].double()) - examples.y.double()
        degrees = own.new_tensor([len(rest) - len(own)])
        return torch.cat([own, torch.outer(own, own).flatten(), (rest @ rest)[None], degrees])

    count = len(family.guess)
    mean, products, rest = torch.split(clients.mean(summary), [count, count**2, 2])
    spread = products.view(count, count) - torch.outer(mean, mean)
    spread = spread + _MIN_SPREAD**2 * torch.eye(count, dtype=torch.float64)
    return Prior(mean, spread, rest[0] / rest[1])


def normal_grid(parameters: int, points: int) -> tuple[Tensor, Tensor]:
    """Return standard normal points ``(points^parameters, parameters)``, and their log density."""
    line = torch.linspace(-_WITHIN, _WITHIN, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * parameters).view(-1, parameters)
    return grid, -grid.square().sum(1) / 2


def weighted_curves(family: Family, points: Tensor, density: Tensor, noise: Tensor) -> Adapt:
    """Return the posterior's mean curve, when the parameters are one of some points.

    Args:
        family: The curves.
        points: ``(points, parameters)``.
        density: Logarithm of each one's prior probability, up to a constant.
        noise: Variance of y around the curve.
    """

    def adapt(support: Batch) -> Predictor:
        misfit = family.function(points, support.x[:, 0].double()) - support.y.double()
        weights = torch.softmax(density - misfit.square().sum(1) / (2 * noise), 0)
        return family.predictor(points, weights)

    return adapt
