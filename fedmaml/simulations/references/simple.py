"""References that a line or two describe."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references.targets import Targets, like

_FAR_AWAY = 1e6


def constant(targets: Targets, name: str = "constant") -> Reference:
    """Return the mean of a client's support targets, whatever the input.

    For classes these are their shares, for binary labels the base rate.
    """

    def fit(_clients: TrainingClients) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            output = targets.decode(targets.encode(support.y).mean(0))
            return lambda x: like(output, x).expand(len(x), -1)

        return adapt

    return Reference(name, "the mean of the client's support targets", fit)


def persistence() -> Reference:
    """Return the last value of the input window: inputs ``(examples, times)`` or more axes."""

    def fit(_clients: TrainingClients) -> Adapt:
        return lambda _support: lambda x: x[:, -1].reshape(len(x), -1)

    return Reference("persistence", "the last value of the input window", fit)


def nearest_class_mean(count: int, about: str = "the nearest class mean") -> Reference:
    """Return minus the distance to each class's mean in the support; what is not there is far.

    Args:
        count: Number of classes.
        about: What a mean is, for tables.
    """

    def fit(_clients: TrainingClients) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            known = support.x.flatten(1)
            means = torch.stack([known[support.y == kind].mean(0) for kind in range(count)])
            means = torch.nan_to_num(means, nan=_FAR_AWAY)
            return lambda x: -torch.cdist(x.flatten(1), means)

        return adapt

    return Reference("nearest class mean", about, fit)


def nearest_neighbour(targets: Targets, neighbours: Sequence[int] = (1,)) -> Reference:
    """Return the mean target of the nearest support examples, by Euclidean distance.

    Args:
        targets: What is predicted.
        neighbours: How many; the one that does best on validation clients is taken.
    """

    def fit(_clients: TrainingClients, neighbours: int) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            known, values = support.x.flatten(1), targets.encode(support.y)
            count = min(neighbours, len(known))

            def predict(x: Tensor) -> Tensor:
                # Not by matrix products, which round near ties the wrong way.
                distances = torch.cdist(
                    x.flatten(1), known, compute_mode="donot_use_mm_for_euclid_dist"
                )
                nearest = distances.topk(count, largest=False).indices
                return like(targets.decode(values[nearest].mean(1)), x)

            return predict

        return adapt

    only = f"{neighbours[0]}-nearest neighbour" if len(neighbours) == 1 else "nearest neighbours"
    return Reference(
        only,
        "the mean target of the nearest support examples",
        fit,
        grid=tuple({"neighbours": count} for count in neighbours),
    )


def similarity(targets: Targets, temperatures: Sequence[float]) -> Reference:
    """Return the mean target of the support, weighted by similarity: matching without training.

        weight of example i = softmax_i(-|x - x_i|^2 / temperature)

    At temperature 0 it is the nearest neighbour, at infinite temperature the support's mean.

    Args:
        targets: What is predicted.
        temperatures: > 0; the one that does best on validation clients is taken.
    """

    def fit(_clients: TrainingClients, temperature: float) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            known, values = support.x.flatten(1), targets.encode(support.y)

            def predict(x: Tensor) -> Tensor:
                distances = torch.cdist(
                    x.flatten(1), known, compute_mode="donot_use_mm_for_euclid_dist"
                )
                weights = torch.softmax(-distances.square() / temperature, 1)
                return like(targets.decode(weights.to(values) @ values), x)

            return predict

        return adapt

    return Reference(
        "similarity to the support",
        "the mean target of the support, weighted by similarity",
        fit,
        grid=tuple({"temperature": temperature} for temperature in temperatures),
    )
