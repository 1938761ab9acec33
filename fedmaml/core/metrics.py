"""What a client's predictions are worth: one number per client, computed where the data is.

Every function takes predictions and targets of one client and returns a scalar tensor; all are safe
under ``torch.func.vmap``. A figure that the examples do not define (AUC of one class) is NaN.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A figure of merit.

    Attributes:
        name: As it appears in tables and files.
        unit: Unit of the value; "1" for a fraction.
        better: Whether larger or smaller values are better.
        worst: What a client gets whose predictions are not finite.
        function: (predictions, targets) of one client -> scalar.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    worst: float
    function: Callable[[Tensor, Tensor], Tensor]


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Fraction of examples whose largest logit is the target; logits ``(examples, classes)``."""
    return (logits.argmax(-1) == y).to(logits.dtype).mean()


def binary_accuracy(logit: Tensor, y: Tensor) -> Tensor:
    """Fraction of examples on the right side of logit 0; shapes ``(examples,)``."""
    return ((logit > 0) == (y > 0.5)).to(logit.dtype).mean()


def balanced_accuracy(logit: Tensor, y: Tensor) -> Tensor:
    """Mean of sensitivity and specificity at logit 0; NaN if one class is absent."""
    right = ((logit > 0) == (y > 0.5)).to(logit.dtype)
    positive = (y > 0.5).to(logit.dtype)
    negative = 1 - positive
    return (
        (right * positive).sum() / positive.sum() + (right * negative).sum() / negative.sum()
    ) / 2


def roc_auc(logit: Tensor, y: Tensor) -> Tensor:
    """Probability that a positive is ranked above a negative, ties counted half (Mann-Whitney)."""
    difference = logit[:, None] - logit[None, :]
    pair = (y[:, None] > 0.5) & (y[None, :] < 0.5)
    won = (difference > 0).to(logit.dtype) + 0.5 * (difference == 0).to(logit.dtype)
    return (won * pair).sum() / pair.sum()


def mean_squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Mean of squared errors over all entries."""
    return torch.nn.functional.mse_loss(prediction, y)


ACCURACY = Metric("accuracy", "1", "higher", 0.0, accuracy)
MEAN_SQUARED_ERROR = Metric("mse", "1", "lower", math.inf, mean_squared_error)


def mean_metrics(
    values: Mapping[str, Sequence[float]], weights: Sequence[float]
) -> dict[str, float]:
    """Return weighted means over clients; NaN counts as absent."""
    means = {}
    for name, column in values.items():
        pairs = [(v, w) for v, w in zip(column, weights, strict=True) if not math.isnan(v)]
        if pairs:
            means[name] = sum(v * w for v, w in pairs) / sum(w for _, w in pairs)
    return means
