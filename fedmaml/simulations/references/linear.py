"""References that are linear in features of the input."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.linear import with_ones
from fedmaml.core.tasks import Batch
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references.targets import BINARY, NUMBERS, Targets, like

Features = Callable[[Tensor], Tensor]
"""Inputs ``(examples, *features)`` -> ``(examples, columns)``."""


def with_intercept(x: Tensor) -> Tensor:
    """Return the flattened inputs and a column of ones."""
    return with_ones(x.flatten(1))


def identity(x: Tensor) -> Tensor:
    """Return the inputs, which are features already."""
    return x


def least_squares(
    features: Features = with_intercept,
    name: str = "least squares",
    about: str = "least squares on the client's support",
    *,
    oracle: bool = False,
) -> Reference:
    """Return the linear function of features that fits a client's support best.

    Of several that do it is the one with the smallest coefficients.
    """

    def fit(_clients: TrainingClients) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            coefficients = solve(features, support)
            return lambda x: _product(features, x, coefficients)

        return adapt

    return Reference(name, about, fit, oracle=oracle)


def ridge_to_the_mean(
    features: Features = with_intercept, weights: Sequence[float] = (1.0,)
) -> Reference:
    """Return ridge regression to the mean of the training clients' coefficients.

        m = mean over training clients of their own least-squares coefficients
        w = argmin |features(x) w - y|^2 + weight |w - m|^2        on the client's support

    Every training client sends its coefficients once, so a federation can have it.

    Args:
        features: What it is linear in.
        weights: Of the pull to m, > 0; the one that does best on validation clients is taken.
    """

    def fit(clients: TrainingClients, weight: float) -> Adapt:
        return ridge_around(
            features, clients.mean(lambda examples: solve(features, examples)), weight
        )

    return Reference(
        "ridge to the mean",
        "ridge regression on the client's support, to the training clients' mean",
        fit,
        grid=tuple({"weight": weight} for weight in weights),
    )


def ridge(
    features: Features = with_intercept, weights: Sequence[float] = (0.1, 1.0, 10.0, 100.0)
) -> Reference:
    """Return ridge regression on a client's support, to zero: what a client can do alone.

    Args:
        features: What it is linear in.
        weights: Of the pull, > 0; the one that does best on validation clients is taken.
    """

    def fit(_clients: TrainingClients, weight: float) -> Adapt:
        return ridge_around(features, None, weight)

    return Reference(
        "local ridge",
        "ridge regression on the client's support",
        fit,
        grid=tuple({"weight": weight} for weight in weights),
    )


def ridge_around(features: Features, centre: Tensor | None, weight: float) -> Adapt:
    """Return argmin |features(x) w - y|^2 + weight |w - centre|^2 on a support; None is zero.

    Args:
        features: What it is linear in.
        centre: ``(columns, outputs)``.
        weight: Of the pull, > 0.
    """

    def adapt(support: Batch) -> Predictor:
        matrix = features(support.x).double()
        rest = NUMBERS.encode(support.y).double()
        if centre is not None:
            rest = rest - matrix @ centre
        pull = weight * torch.eye(matrix.shape[1], dtype=torch.float64)
        moved = torch.linalg.solve(matrix.T @ matrix + pull, matrix.T @ rest)
        coefficients = moved if centre is None else centre + moved
        return lambda x: _product(features, x, coefficients)

    return adapt


def logistic_regression(strengths: Sequence[float] = (1.0,)) -> Reference:
    """Return logistic regression on a client's support alone; binary labels, one logit.

    A support of one class has no such regression; there it is the base rate.

    Args:
        strengths: scikit-learn's C, the inverse of the penalty; the one that does best on
            validation clients is taken.
    """

    def fit(_clients: TrainingClients, strength: float) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            labels = support.y > 0.5
            if labels.all() or not labels.any():
                output = BINARY.decode(BINARY.encode(support.y).mean(0))
                return lambda x: output.to(x.dtype).expand(len(x), 1)
            return _logistic(support.x, labels, strength)

        return adapt

    return Reference(
        "logistic regression",
        "logistic regression on the client's support",
        fit,
        grid=tuple({"strength": strength} for strength in strengths),
    )


def pooled_logistic_regression(targets: Targets = BINARY) -> Reference:
    """Return one logistic regression on the examples of all training clients, never adapted."""

    def fit(clients: TrainingClients) -> Adapt:
        predict = pooled_logistic(clients, targets)
        return lambda _support: predict

    about = "logistic regression on the examples of all training clients, the same for all"
    return Reference("pooled logistic regression", about, fit, federated=False)


def pooled_logistic(clients: TrainingClients, targets: Targets = BINARY) -> Predictor:
    """Return the logits of one logistic regression on the examples of all training clients."""
    parts = clients.examples()
    labels = torch.cat([targets.encode(part.y)[:, 0] > 0.5 for part in parts])
    return _logistic(torch.cat([part.x for part in parts]), labels)


def _logistic(x: Tensor, labels: Tensor, strength: float = 1.0) -> Predictor:
    """Return a logistic regression's logits, ``(examples, 1)``.

    Args:
        x: Inputs; all axes after the first are columns.
        labels: bool ``(examples,)``, of both kinds.
        strength: scikit-learn's C, the inverse of the penalty.
    """
    from sklearn.linear_model import LogisticRegression  # most of a second

    model = LogisticRegression(C=strength, max_iter=1000)
    model.fit(x.flatten(1).double().numpy(), labels.flatten().numpy())

    def predict(inputs: Tensor) -> Tensor:
        logits = model.decision_function(inputs.flatten(1).double().numpy())
        return torch.from_numpy(logits)[:, None].to(inputs.dtype)

    return predict


def solve(features: Features, examples: Batch) -> Tensor:
    """Return least-squares coefficients of smallest norm, float64 ``(columns, outputs)``."""
    matrix, y = features(examples.x).double(), NUMBERS.encode(examples.y).double()
    return torch.linalg.lstsq(matrix, y, driver="gelsd").solution


def _product(features: Features, x: Tensor, coefficients: Tensor) -> Tensor:
    return like(features(x).double() @ coefficients, x)
