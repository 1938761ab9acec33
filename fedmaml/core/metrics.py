"""Metrics of a client's predictions: a number or a few named ones, computed where the data are.

Predictions and targets of the functions below are those of one client. One output column may come
as ``(examples,)`` or ``(examples, 1)``, whatever the targets' shape; further axes before the
classes (nodes, pixels) count as examples. All are safe under ``torch.func.vmap``. A value that
the examples do not define (AUC of one class) is NaN.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.params import Params
from fedmaml.core.records import Better
from fedmaml.core.trees import Tree, leaves, length

_ROUNDING = 1e-6  # by which a mean may lie outside the range of its terms


@dataclass(frozen=True)
class Range:
    """The values that a metric can have; NaN, undefined, is always one of them.

    Attributes:
        least: Smallest one.
        most: Largest one.
        worst: A further one: of a client whose predictions are not finite.
    """

    least: float = -math.inf
    most: float = math.inf
    worst: float = math.nan

    def __contains__(self, value: float) -> bool:
        """Return whether a metric can have this value, up to rounding."""
        if math.isnan(value) or value == self.worst:
            return True
        finite = [abs(bound) for bound in (self.least, self.most) if math.isfinite(bound)]
        slack = _ROUNDING * max([1.0, *finite])
        return self.least - slack <= value <= self.most + slack

    def __str__(self) -> str:
        return f"allowed are {self.least:g} to {self.most:g}"


@dataclass(frozen=True)
class Metric:
    """A number, or a vector of named cells, by which one client's predictions are evaluated.

        RMSE                                             in the unit of the standardised targets
        replace(RMSE, unit="days", scale=4.2)            in days; one standard deviation is 4.2
        replace(RMSE, unit="days", scale=deviation)      deviation(shared_statistics) -> 4.2

    Attributes:
        name: As it appears in tables and files.
        unit: Unit of the value; "1" for a fraction.
        better: Whether larger or smaller values are better; "neither" for input of figures only.
        worst: Value of a client whose predictions are not finite, in ``unit``.
        function: (predictions, targets) of one client -> scalar, or cell -> scalar.
        cells: Names of the cells that ``function`` returns; empty for a scalar.
        scale: Factor that brings values to ``unit``: a number, or a function of the scenario's
            shared statistics; it is positive.
        least: Smallest value that ``function`` can return; a server refuses others.
        most: Largest one.
    """

    name: str
    unit: str
    better: Better
    worst: float
    function: Callable[[Tree, Tree], Tensor | Mapping[str, Tensor]]
    cells: tuple[str, ...] = ()
    scale: float | Callable[[Params], float] = 1.0
    least: float = -math.inf
    most: float = math.inf

    def range(self, shared_statistics: Params) -> Range:
        """Return the values that a client can have, in ``unit``."""
        if all(bound == 0 or math.isinf(bound) for bound in (self.least, self.most)):
            return Range(self.least, self.most, self.worst)  # whatever the factor is
        scale = self.scale(shared_statistics) if callable(self.scale) else self.scale
        return Range(self.least * scale, self.most * scale, self.worst)

    def clipped(self, interval: tuple[float, float] | None) -> tuple[float, float] | None:
        """Return an interval of a mean without the part that no mean can lie in.

        Intervals of few clients reach beyond what a metric can be. Bounds that only the shared
        statistics tell are passed over.
        """
        if interval is None:
            return None
        if callable(self.scale):
            bounds = (0.0 if self.least == 0 else -math.inf, 0.0 if self.most == 0 else math.inf)
        else:
            bounds = (self.least * self.scale, self.most * self.scale)
        finite = [self.worst] if math.isfinite(self.worst) else []
        least, most = min([bounds[0], *finite]), max([bounds[1], *finite])
        return max(interval[0], least), min(interval[1], most)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values: the metric's own, or ``"<metric>/<cell>"`` for each cell."""
        return tuple(f"{self.name}/{cell}" for cell in self.cells) or (self.name,)

    def values(
        self,
        prediction: Tree,
        y: Tree,
        shared_statistics: Params,
        sound: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return one client's values by column; ``worst`` if its predictions are not finite.

        Args:
            prediction: A tensor, or a mapping of tensors.
            y: Likewise.
            shared_statistics: Totals of the scenario's statistics.
            sound: Whether the predictions are finite, a scalar; None: it is found out.

        Raises:
            UnsupportedProblemError: If the function returns anything but what the metric declares.
        """
        found = self.function(prediction, y)
        cells = found if isinstance(found, Mapping) else {"": found}
        if tuple(cells) != (self.cells or ("",)) or any(value.ndim for value in cells.values()):
            shapes = {cell: tuple(value.shape) for cell, value in cells.items()}
            raise UnsupportedProblemError(
                f"metric {self.name!r} returned {shapes}; it declares cells {self.cells}: its "
                "function must return a scalar tensor for each cell, in this order, or, without "
                "cells, one scalar tensor"
            )
        if sound is None:
            sound = torch.stack([leaf.isfinite().all() for leaf in leaves(prediction)]).all()
        scale = self.scale(shared_statistics) if callable(self.scale) else self.scale
        return {
            column: torch.where(sound, value * scale, self.worst)
            for column, value in zip(self.columns, cells.values(), strict=True)
        }


# --- classes ----------------------------------------------------------------------------------


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the fraction of examples whose class is predicted: largest logit, or logit > 0."""
    predicted, target, _ = _predicted(logits, y)
    return (predicted == target).to(logits.dtype).mean()


def balanced_accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean of the classes' recalls, of those among the targets; NaN if it is one."""
    predicted, target, classes = _predicted(logits, y)
    of_class = F.one_hot(target, classes).to(logits.dtype)
    count = of_class.sum(0)
    recall = (of_class * (predicted == target)[:, None]).sum(0) / count
    return torch.where((count > 0).sum() > 1, recall.nanmean(), math.nan)


def f1(logits: Tensor, y: Tensor) -> Tensor:
    """Return 2 TP / (2 TP + FP + FN).

    One column: of class 1. Many: the mean over the classes among targets and predictions.
    """
    predicted, target, classes = _predicted(logits, y)
    guessed, true = (F.one_hot(labels, classes).to(logits.dtype) for labels in (predicted, target))
    of_class = 2 * (guessed * true).sum(0) / (guessed.sum(0) + true.sum(0))
    return of_class[1] if _one_column(logits) else of_class.nanmean()


def log_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean of -log p(target)."""
    if _one_column(logits):
        return F.binary_cross_entropy_with_logits(logits.reshape(-1), y.reshape(-1).to(logits))
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))


def expected_calibration_error(logits: Tensor, y: Tensor, bins: int = 10) -> Tensor:
    """Return the mean of ``|accuracy - confidence|`` over bins of equal width.

    Bins are weighted by their examples. Confidence is the probability of the predicted class.
    Guo et al. On Calibration of Modern Neural Networks. ICML 2017, equation 3.
    """
    predicted, target, _ = _predicted(logits, y)
    confidence = _probabilities(logits).max(-1).values
    inner = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)[1:-1]
    of_bin = F.one_hot(torch.bucketize(confidence, inner), bins).to(confidence.dtype)
    right = (predicted == target).to(confidence.dtype)
    return ((right - confidence)[:, None] * of_bin).sum(0).abs().sum() / len(confidence)


def roc_auc(logits: Tensor, y: Tensor) -> Tensor:
    """Return the probability that a positive is ranked above a negative, ties counted half.

    Many classes: the mean over the classes against the rest, ranked by their probabilities.
    """

    def of_class(score: Tensor, positive: Tensor) -> Tensor:
        difference = score[:, None] - score[None, :]
        pair = positive[:, None] & ~positive[None, :]
        won = (difference > 0).to(score.dtype) + 0.5 * (difference == 0).to(score.dtype)
        return (won * pair).sum() / pair.sum()

    return _against_the_rest(of_class, logits, y)


def average_precision(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean over positives of the precision at their score; classes as in `roc_auc`."""

    def of_class(score: Tensor, positive: Tensor) -> Tensor:
        chosen = (score[None, :] >= score[:, None]).to(score.dtype)  # row: threshold
        precision = (chosen * positive).sum(1) / chosen.sum(1)
        return (precision * positive).sum() / positive.sum()

    return _against_the_rest(of_class, logits, y)


def precision_at(k: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the metric: fraction of positives among the k examples with the largest scores.

    One output column; of equal scores the earlier example counts. NaN with fewer than k examples.
    """

    def precision(score: Tensor, y: Tensor) -> Tensor:
        score, positive = score.reshape(-1), y.reshape(-1) > 0.5
        if len(score) < k:
            return score.new_full((), math.nan)
        first = torch.argsort(score, descending=True, stable=True)[:k]
        return positive[first].to(score.dtype).mean()

    return precision


def confusion(logits: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return how many examples are true and false positives and negatives, at logit 0."""
    predicted, target, _ = _predicted(logits, y)
    right, positive = predicted == target, predicted == 1
    return {
        "tp": (right & positive).sum().to(logits.dtype),
        "fp": (~right & positive).sum().to(logits.dtype),
        "fn": (~right & ~positive).sum().to(logits.dtype),
        "tn": (right & ~positive).sum().to(logits.dtype),
    }


def _one_column(logits: Tensor) -> bool:
    return logits.ndim == 1 or logits.shape[-1] == 1


def _predicted(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return predicted and target classes, int64 ``(examples,)``, and the number of classes."""
    if _one_column(logits):
        return (logits.reshape(-1) > 0).long(), (y.reshape(-1) > 0.5).long(), 2
    # argmax takes ten times as long where two are compared
    best = (logits[..., 1] > logits[..., 0]).long() if logits.shape[-1] == 2 else logits.argmax(-1)
    return best.reshape(-1), y.reshape(-1).long(), logits.shape[-1]


def _probabilities(logits: Tensor) -> Tensor:
    """Return the classes' probabilities, ``(examples, classes)``."""
    if _one_column(logits):
        logit = logits.reshape(-1)
        return torch.stack([-logit, logit], -1).sigmoid()
    return logits.reshape(-1, logits.shape[-1]).softmax(-1)


def _against_the_rest(
    of_class: Callable[[Tensor, Tensor], Tensor], logits: Tensor, y: Tensor
) -> Tensor:
    """Return (scores, positive) -> value of the one column, or its mean over defined classes."""
    if _one_column(logits):
        return of_class(logits.reshape(-1), y.reshape(-1) > 0.5)
    scores, target = _probabilities(logits), y.reshape(-1)
    values = [of_class(scores[:, label], target == label) for label in range(scores.shape[-1])]
    return torch.stack(values).nanmean()


# --- numbers ----------------------------------------------------------------------------------


def mean_squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the mean of squared errors over all entries."""
    return F.mse_loss(*_columns(prediction, y))


def root_mean_squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the root of the mean squared error; of many columns, the mean of their roots."""
    prediction, y = _columns(prediction, y)
    return (prediction - y).square().mean(0).sqrt().mean()


def mean_absolute_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the mean of absolute errors over all entries."""
    return F.l1_loss(*_columns(prediction, y))


def r2(prediction: Tensor, y: Tensor) -> Tensor:
    """Return 1 - residual / total sum of squares, mean over columns; NaN if one is constant."""
    prediction, y = _columns(prediction, y)
    total = (y - y.mean(0)).square().sum(0)
    explained = 1 - (prediction - y).square().sum(0) / total
    return torch.where(total > 0, explained, math.nan).mean()


def examples(_prediction: Tree, y: Tree) -> Tensor:
    """Return how many examples there are, so that figures can weigh clients."""
    return torch.full((), length(y), dtype=torch.float64, device=leaves(y)[0].device)


def _columns(prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as ``(examples, columns)``."""
    prediction, y = prediction.reshape(len(prediction), -1), y.reshape(len(y), -1)
    if prediction.shape != y.shape:
        raise UnsupportedProblemError(
            f"predictions have {prediction.shape[1]} columns for {prediction.shape[0]} examples, "
            f"targets {y.shape[1]} for {y.shape[0]}: give the network as many outputs as targets"
        )
    return prediction, y


ACCURACY = Metric("accuracy", "1", "higher", 0.0, accuracy, least=0, most=1)
BALANCED_ACCURACY = Metric(
    "balanced_accuracy", "1", "higher", 0.0, balanced_accuracy, least=0, most=1
)
F1 = Metric("f1", "1", "higher", 0.0, f1, least=0, most=1)
LOG_LOSS = Metric("log_loss", "nat", "lower", math.inf, log_loss, least=0)
CALIBRATION_ERROR = Metric(
    "calibration_error", "1", "lower", 1.0, expected_calibration_error, least=0, most=1
)
ROC_AUC = Metric("auc", "1", "higher", 0.0, roc_auc, least=0, most=1)
AVERAGE_PRECISION = Metric(
    "average_precision", "1", "higher", 0.0, average_precision, least=0, most=1
)
CONFUSION = Metric(
    "confusion", "examples", "neither", math.nan, confusion, ("tp", "fp", "fn", "tn"), least=0
)
MEAN_SQUARED_ERROR = Metric("mse", "1", "lower", math.inf, mean_squared_error, least=0)
RMSE = Metric("rmse", "1", "lower", math.inf, root_mean_squared_error, least=0)
MAE = Metric("mae", "1", "lower", math.inf, mean_absolute_error, least=0)
R2 = Metric("r2", "1", "higher", -math.inf, r2, most=1)
EXAMPLES = Metric("examples", "1", "neither", math.nan, examples, least=0)


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
