"""Whole curves of the training clients, known at common points, as predictors of a new one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.linear import Prior
from fedmaml.core.tasks import Batch
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients


def mean_of_curves(points: Tensor) -> Reference:
    """Return the mean of the training clients' curves; arguments as in `nearest_curves`."""

    def fit(clients: TrainingClients) -> Adapt:
        mean = clients.mean(lambda examples: _curve(points, examples))
        return lambda _support: _predictor(points, mean)

    return Reference("mean curve", "the mean of the training clients' curves", fit)


def nearest_curves(points: Tensor, counts: Sequence[int]) -> Reference:
    """Return the mean of the training clients' curves that are nearest to the support.

    Args:
        points: Where all curves are known, rising; the last examples of every training client are
            those at these points, in this order.
        counts: How many curves; the number that does best on validation clients is taken.
    """

    def fit(clients: TrainingClients, count: int) -> Adapt:
        curves = torch.stack([_curve(points, examples) for examples in clients.examples()])

        def adapt(support: Batch) -> Predictor:
            seen = curves @ interpolation(points, support.x[:, 0].double()).T
            distance = (seen - support.y.double()).square().sum(1)
            nearest = distance.topk(min(count, len(curves)), largest=False).indices
            return _predictor(points, curves[nearest].mean(0))

        return adapt

    about = "the mean of the training clients' curves that are nearest to the support"
    grid = tuple({"count": count} for count in counts)
    return Reference("nearest training curves", about, fit, federated=False, grid=grid)


def kriging(points: Tensor, noises: Sequence[float]) -> Reference:
    """Return the posterior mean of a Gaussian process: the training curves' mean and covariance.

    Every training client sends its curve c and c c' to a sum.

    Args:
        points: As in `nearest_curves`.
        noises: Standard deviations of the support's noise; the best on validation clients is taken.
    """

    def fit(clients: TrainingClients, noise: float) -> Adapt:
        count = len(points)

        def summary(examples: Batch) -> Tensor:
            curve = _curve(points, examples)
            return torch.cat([curve, torch.outer(curve, curve).flatten()])

        mean, products = torch.split(clients.mean(summary), [count, count**2])
        spread = products.view(count, count) - torch.outer(mean, mean)
        prior = Prior(mean, spread, mean.new_tensor(noise**2))

        def adapt(support: Batch) -> Predictor:
            seen = interpolation(points, support.x[:, 0].double())
            return _predictor(points, prior.posterior(seen, support.y.double())[0])

        return adapt

    about = "the posterior mean under the mean and covariance of the training clients' curves"
    return Reference("kriging", about, fit, grid=tuple({"noise": noise} for noise in noises))


def interpolation(points: Tensor, at: Tensor) -> Tensor:
    """Return weights ``(len(at), len(points))`` of linear interpolation; beyond the ends, the end.

    Args:
        points: Rising.
        at: Where the values are wanted.
    """
    after = torch.searchsorted(points, at.contiguous()).clamp(1, len(points) - 1)
    left, right = points[after - 1], points[after]
    share = ((at - left) / (right - left)).clamp(0, 1)
    rows = torch.arange(len(at))
    weights = points.new_zeros(len(at), len(points))
    weights[rows, after - 1], weights[rows, after] = 1 - share, share
    return weights


def _curve(points: Tensor, examples: Batch) -> Tensor:
    return examples.y[-len(points) :].double()


def _predictor(points: Tensor, curve: Tensor) -> Predictor:
    def predict(x: Tensor) -> Tensor:
        values = interpolation(points, x[:, 0].double()) @ curve
        return values[:, None].to(x.dtype)

    return predict
