"""Posterior means: under the training clients' mean and covariance, or under the truth."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.linear import Prior
from fedmaml.core.tasks import Batch
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references.linear import Features, identity, solve, with_intercept
from fedmaml.simulations.references.targets import NUMBERS

_MIN_SHARE = 1e-6  # of the largest variance, that every direction has


def hierarchical_ridge(features: Features = with_intercept) -> Reference:
    """Return the posterior mean under a prior that the training clients' own fits make.

        w_i = least squares on the examples of client i,     r_i its rest, C_i = (X_i'X_i)^-1
        noise = mean |r_i|^2 / mean (n_i - columns)
        mu = mean w_i,     Sigma = mean w_i w_i' - mu mu' - noise mean C_i,  eigenvalues >= 0

    Every training client sends w_i, w_i w_i', C_i, |r_i|^2 and n_i once, and no example.
    Morris. Parametric Empirical Bayes Inference. JASA 78, 1983.

    Args:
        features: What it is linear in; training clients need more examples than columns. The
            target is one number.
    """

    def fit(clients: TrainingClients) -> Adapt:
        prior = prior_of(clients.mean(lambda examples: _summary(features, examples)))
        return _by_posterior_mean(prior, features)

    about = "the posterior under the mean and covariance of the training clients' own fits"
    return Reference("hierarchical ridge", about, fit)


def posterior_mean(prior: Callable[[], Prior], about: str) -> Reference:
    """Return the oracle of made-up linear clients: the posterior mean under their distribution.

    Args:
        prior: Makes mean and covariance of the clients' coefficients, and the noise.
        about: What is known.
    """

    def fit(_clients: TrainingClients) -> Adapt:
        return _by_posterior_mean(prior(), identity)

    return Reference("oracle", about, fit, oracle=True)


def _by_posterior_mean(prior: Prior, features: Features) -> Adapt:
    def adapt(support: Batch) -> Predictor:
        y = NUMBERS.encode(support.y).double()[:, 0]
        mean, _ = prior.posterior(features(support.x).double(), y)
        return lambda x: (features(x).double() @ mean)[:, None].to(x.dtype)

    return adapt


def prior_of(mean: Tensor) -> Prior:
    """Return the prior from the mean over clients of what each sends (`_summary`)."""
    columns = int((len(mean) / 2) ** 0.5)  # 2 c^2 + c + 2 entries
    parts = [columns, columns**2, columns**2, 2]
    centre, products, inverse, rest = torch.split(mean, parts)
    noise = (rest[0] / rest[1]).clamp(min=0)
    spread = products.view(columns, columns) - torch.outer(centre, centre)
    values, vectors = torch.linalg.eigh(spread - noise * inverse.view(columns, columns))
    values = values.clamp(min=_MIN_SHARE * float(values.max().clamp(min=0)))
    return Prior(centre, vectors * values @ vectors.T, noise)


def _summary(features: Features, examples: Batch) -> Tensor:
    matrix = features(examples.x).double()
    own = solve(features, examples)[:, 0]
    rest = NUMBERS.encode(examples.y).double()[:, 0] - matrix @ own
    inverse = torch.linalg.pinv(matrix.T @ matrix, hermitian=True)
    degrees = torch.tensor([float(len(matrix) - matrix.shape[1])], dtype=torch.float64)
    return torch.cat(
        [own, torch.outer(own, own).flatten(), inverse.flatten(), (rest @ rest)[None], degrees]
    )
