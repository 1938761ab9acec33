"""Random forests, on the pooled examples of the training clients or on a client's support."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references.targets import Targets, like


def random_forest(targets: Targets, trees: int = 100, *, pooled: bool = True) -> Reference:
    """Return a random forest.

    Args:
        targets: Kind of the targets; of classes and labels it predicts their shares.
        trees: Number of trees.
        pooled: Fit once on the examples of all training clients, which no federation can do; else
            at every client on its support.
    """

    def fit(clients: TrainingClients) -> Adapt:
        if not pooled:
            return lambda support: _predictor(_forest([support], targets, trees), targets)
        forest = _forest(clients.examples(), targets, trees)
        return lambda _support: _predictor(forest, targets)

    if pooled:
        about = "a random forest on the pooled examples of the training clients"
        return Reference("pooled random forest", about, fit, federated=False)
    return Reference("random forest", "a random forest on the client's support", fit)


def _forest(parts: Sequence[Batch], targets: Targets, trees: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor  # most of a second

    x = np.concatenate([part.x.flatten(1).numpy() for part in parts])
    y = np.concatenate([targets.encode(part.y).numpy() for part in parts])
    # The shares of one-hot classes are what a classifier's leaves hold; variance of shares is Gini.
    return RandomForestRegressor(trees, random_state=0).fit(x, y if y.shape[1] > 1 else y[:, 0])


def _predictor(forest: Any, targets: Targets) -> Predictor:
    def predict(x: Tensor) -> Tensor:
        means = torch.from_numpy(forest.predict(x.flatten(1).numpy()))
        return like(targets.decode(means.reshape(len(x), -1)), x)

    return predict
