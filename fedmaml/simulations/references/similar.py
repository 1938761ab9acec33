"""References for molecules: who is most like the active ones of a support?"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients

Similarity = Callable[[Tensor, Tensor], Tensor]
"""Inputs ``(left, columns)`` and ``(right, columns)`` -> similarities ``(left, right)``."""


def most_similar(similarity: Similarity, name: str, neighbours: Sequence[int] = (1,)) -> Reference:
    """Return the weighted share of class 1 among the most similar support examples, as two logits.

    Args:
        similarity: In [0, 1].
        name: As it appears in tables.
        neighbours: How many; the one that does best on validation clients is taken.
    """

    def fit(_clients: TrainingClients, neighbours: int) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            sign = 2 * support.y.double() - 1

            def predict(x: Tensor) -> Tensor:
                near = similarity(x.double(), support.x.double())
                best = near.topk(min(neighbours, len(sign)))
                return _two((best.values * sign[best.indices]).sum(1), x)

            return predict

        return adapt

    about = "similarity to the most similar support examples, those of class 0 counted against"
    grid = tuple({"neighbours": count} for count in neighbours)
    return Reference(name, about, fit, grid=grid)


def kernel_ridge(
    similarity: Similarity, name: str, penalties: Sequence[float] = (0.1, 1.0, 10.0)
) -> Reference:
    """Return ridge regression of -1 and 1 with a similarity as the kernel, as two logits.

    Args:
        similarity: A kernel.
        name: As it appears in tables.
        penalties: > 0; the one that does best on validation clients is taken.
    """

    def fit(_clients: TrainingClients, penalty: float) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            known = support.x.double()
            pull = penalty * torch.eye(len(known), dtype=torch.float64)
            weights = torch.linalg.solve(
                similarity(known, known) + pull, 2 * support.y.double() - 1
            )
            return lambda x: _two(similarity(x.double(), known) @ weights, x)

        return adapt

    about = "ridge regression on the client's support, its similarities as the kernel"
    return Reference(name, about, fit, grid=tuple({"penalty": each} for each in penalties))


def _two(score: Tensor, x: Tensor) -> Tensor:
    """Return two logits whose difference is the score."""
    return torch.stack([-score / 2, score / 2], 1).to(x.dtype)
