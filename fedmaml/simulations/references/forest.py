"""Random forests, on the pooled examples of the training clients or on a client's support."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.params import Params
from fedmaml.core.tasks import Batch
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references.targets import Targets, classes, like


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


def forest_by_shares(count: int, trees: int = 100) -> Reference:
    """Return the pooled forest with the class shares of a client in place of those of all.

        p(c | x) ~ forest(c | x) q_c / p_c,    q_c = (n_c + m p_c) / (n + m)

    n_c of the client's n support examples and a share p_c of all training examples are of class c;
    m, pseudo-examples, is chosen on validation clients. Saerens, Latinne, Decaestecker. Adjusting
    the outputs of a classifier to new a priori probabilities. Neural Computation 14, 2002.

    Args:
        count: Number of classes; an output is a logit of each.
        trees: Number of trees.
    """
    targets = classes(count)

    def fit(clients: TrainingClients, pseudo: float) -> Adapt:
        parts = clients.examples()
        forest = _forest(parts, targets, trees)
        everyone = targets.encode(torch.cat([part.y for part in parts])).mean(0)

        def adapt(support: Batch) -> Predictor:
            own = targets.encode(support.y).sum(0)
            shares = (own + pseudo * everyone) / (len(support.y) + pseudo)
            predict = _predictor(forest, targets)
            return lambda x: with_shares(predict(x), everyone, shares)

        return adapt

    about = "the same, its votes weighed by the client's class shares"
    grid = tuple({"pseudo": pseudo} for pseudo in (1.0, 3.0, 10.0, 30.0, 100.0))
    return Reference("pooled forest, own class shares", about, fit, federated=False, grid=grid)


def with_shares(logits: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Return logits for other class shares; classes that were never there stay as they are."""
    ratio = torch.where(before > 0, after / before, 1.0)
    return logits + ratio.clamp(min=1e-12).log().to(logits.dtype)


def forest_proximity(
    count: int, examples: Callable[[Params], Batch], trees: int = 200
) -> Reference:
    """Return each class's mean proximity to an example: the share of trees with both in one leaf.

    The forest is trained on classes of the training clients; those of a support may be others.
    Breiman. Random Forests. Machine Learning 45, 2001.

    Args:
        count: Number of classes of a client.
        examples: Shared statistics -> examples to train the forest on, y class indices.
        trees: Number of trees.
    """

    def fit(clients: TrainingClients) -> Adapt:
        x, y = examples(clients.statistics)
        forest = _forest([Batch(x, y)], classes(int(y.max()) + 1), trees)

        def leaves(inputs: Tensor) -> Tensor:
            return torch.from_numpy(forest.apply(inputs.flatten(1).numpy()))

        def adapt(support: Batch) -> Predictor:
            known = leaves(support.x)

            def predict(inputs: Tensor) -> Tensor:
                near = (leaves(inputs)[:, None] == known).double().mean(-1)
                means = [near[:, support.y == kind].mean(1) for kind in range(count)]
                return like(torch.stack(means, 1).nan_to_num(0.0), inputs)

            return predict

        return adapt

    about = "share of trees, trained on the training classes, in which two examples share a leaf"
    return Reference("forest proximity", about, fit, federated=False)


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
