"""Gradient boosting of trees on the pooled examples of the training clients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references.linear import ridge_around, with_intercept
from fedmaml.simulations.references.targets import NUMBERS, Targets


def gradient_boosting(targets: Targets, rounds: int = 100) -> Reference:
    """Return boosted trees, fit once on the examples of all training clients.

    No federation can pool them: it shows what the data hold, were they in one place. For tables it
    is the strongest predictor that needs no care.

    Args:
        targets: Kind of the targets; numbers must be one column.
        rounds: Trees, of each class where there are several.
    """

    def fit(clients: TrainingClients) -> Adapt:
        model = _boosted(clients, targets, rounds)

        def predict(x: Tensor) -> Tensor:
            inputs = x.flatten(1).numpy()
            if targets is NUMBERS:
                return torch.from_numpy(model.predict(inputs))[:, None].to(x.dtype)
            return targets.decode(torch.from_numpy(_shares(model, inputs, width))).to(x.dtype)

        width = targets.encode(clients.examples()[0].y[:1]).shape[1]
        predictor: Predictor = predict
        return lambda _support: predictor

    about = "boosted trees on the pooled examples of the training clients"
    return Reference("pooled gradient boosting", about, fit, federated=False)


def corrected_boosting(rounds: int, weights: Sequence[float]) -> Reference:
    """Return pooled boosted trees, with ridge regression on what they leave at the support.

        w = argmin |y - trees(x) - [x, 1] w|^2 + weight |w|^2        on the client's support

    Args:
        rounds: Trees; targets are one column of numbers.
        weights: Of the penalty; the one that does best on validation clients is taken.
    """

    def fit(clients: TrainingClients, weight: float) -> Adapt:
        pooled = _pooled_trees(clients, rounds)

        def adapt(support: Batch) -> Predictor:
            rest = NUMBERS.encode(support.y).double() - pooled(support.x).double()
            corrected = ridge_around(with_intercept, None, weight)(Batch(support.x, rest))
            return lambda x: pooled(x) + corrected(x)

        return adapt

    about = "pooled boosted trees, and ridge regression on what they leave at the support"
    grid = tuple({"weight": weight} for weight in weights)
    return Reference("boosting and residual ridge", about, fit, federated=False, grid=grid)


def _pooled_trees(clients: TrainingClients, rounds: int) -> Predictor:
    predictor: Predictor = gradient_boosting(NUMBERS, rounds).fit(clients)(clients.examples()[0])
    return predictor


def _boosted(clients: TrainingClients, targets: Targets, rounds: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    parts = clients.examples()
    x = np.concatenate([part.x.flatten(1).numpy() for part in parts])
    y = np.concatenate([targets.encode(part.y).numpy() for part in parts])
    if targets is NUMBERS:
        return HistGradientBoostingRegressor(max_iter=rounds, random_state=0).fit(x, y[:, 0])
    labels = y.argmax(1) if y.shape[1] > 1 else y[:, 0].astype(int)
    return HistGradientBoostingClassifier(max_iter=rounds, random_state=0).fit(x, labels)


def _shares(model: Any, inputs: np.ndarray, width: int) -> np.ndarray:
    """Return the classes' probabilities, ``(examples, width)``; of two, that of the second."""
    shares = np.zeros((len(inputs), max(2, width)))
    shares[:, model.classes_] = model.predict_proba(inputs)
    return shares if width > 1 else shares[:, 1:]
