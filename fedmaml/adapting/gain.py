"""What adapting gains at a site, by cross-validation on its own examples.

Each part of the rows is predicted by the model as it came and by one that adapted to the other
parts. Rows are counted as independent: the interval is Student's over the differences of their
losses.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmaml.adapting.model import Model
from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.statistics import finite, student_factor

MAX_FOLDS = 5
FEWEST_ROWS = 4


@dataclass(frozen=True)
class Gain:
    """Losses and the headline metric before and after adaptation, on rows that it did not see.

    Attributes:
        rows: Examples of the site.
        folds: Parts; 0: there were too few rows, or there is no model before adaptation.
        loss_before: Mean loss of a row, without adaptation; None where there is none, as below.
        loss_after: With it; None: predictions were not finite.
        interval: 95 % interval of the mean difference, before - after.
        metric: Name of the headline metric.
        unit: Its unit.
        before: Its value over all rows, without adaptation.
        after: With it.
        why_none: Why nothing could be estimated; "" if it was.
    """

    rows: int
    folds: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    interval: tuple[float, float] | None = None
    metric: str = ""
    unit: str = ""
    before: float | None = None
    after: float | None = None
    why_none: str = ""

    @property
    def advice(self) -> str:
        """Whether to adapt, in one sentence."""
        if self.why_none:
            return f"what adapting gains is not known: {self.why_none}"
        if self.loss_before is None or self.loss_after is None:
            return "do not adapt: predictions after adaptation are not finite; lower its steps"
        gain = self.loss_before - self.loss_after
        low, high = self.interval or (math.nan, math.nan)
        seen = f"{self.rows} rows, {self.folds}-fold cross-validation"
        how = (
            f"the loss of a row falls by {gain:.3g} (95 % interval {low:.3g} to {high:.3g}; {seen})"
        )
        if not gain > 0:
            return (
                f"do not adapt: it gains nothing; the loss of a row rises by {-gain:.3g} (95 % "
                f"interval {-high:.3g} to {-low:.3g}; {seen})"
            )
        if not low > 0:
            return f"adapting may gain nothing, the interval reaches 0: {how}"
        return f"adapt: {how}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the advice."""
        return asdict(self) | {"advice": self.advice}


def gain_of(
    model: Model,
    x: Tensor,
    y: Tensor,
    steps: int | None = None,
    seed: int = 0,
) -> Gain:
    """Estimate what adapting gains.

    Args:
        model: Adapts.
        x: As the network takes them, ``(rows, *features)``.
        y: As the loss takes them.
        steps: Of adaptation; None: as in the run.
        seed: Of the draw of the parts.
    """
    rows = len(y)
    if model.steps is None:
        label = model.strategy.facts.label
        return Gain(rows, why_none=f"{label} has no model without adaptation")
    if rows < FEWEST_ROWS:
        return Gain(rows, why_none=f"{rows} rows are too few to hold some back")
    parts = _parts(y, model.target != "numbers", seed)
    unadapted = model.adapted(x, y, 0)
    before = _predicted(unadapted, x)
    after = torch.empty_like(before)
    for part in parts:
        others = torch.ones(rows, dtype=torch.bool)
        others[part] = False
        after[part] = _predicted(model.adapted(x[others], y[others], steps), x[part])
    losses = [_losses(model, one, y) for one in (before, after)]
    low, high = _interval((losses[0] - losses[1]).numpy())
    metric = model.problem.metrics[0]
    return Gain(
        rows,
        len(parts),
        finite(float(losses[0].mean())),
        finite(float(losses[1].mean())),
        (low, high) if math.isfinite(high - low) else None,
        metric.name,
        metric.unit,
        _metric(model, before, y),
        _metric(model, after, y),
    )


def _predicted(predictor: Callable[..., Any], x: Tensor) -> Tensor:
    prediction = predictor(x)
    if not isinstance(prediction, Tensor):
        raise UnsupportedProblemError(
            "the network returns several tensors by name, and an estimator needs one"
        )
    return prediction.detach()


def _losses(model: Model, prediction: Tensor, y: Tensor) -> Tensor:
    target = y.to(model.problem.dtype) if y.is_floating_point() else y
    losses: Tensor = model.problem.loss(prediction, target)
    return losses.double()


def _metric(model: Model, prediction: Tensor, y: Tensor) -> float | None:
    """Return the headline metric over all rows; None if they do not define it."""
    metric = model.problem.metrics[0]
    target = y.to(model.problem.dtype) if y.is_floating_point() else y
    found = metric.values(prediction, target, model.shared_statistics)
    return finite(float(next(iter(found.values()))))


def _interval(differences: np.ndarray) -> tuple[float, float]:
    count = len(differences)
    half = student_factor(count) * float(differences.std(ddof=1)) / math.sqrt(count)
    return float(differences.mean()) - half, float(differences.mean()) + half


def _parts(y: Tensor, classes: bool, seed: int) -> list[Tensor]:
    """Return the rows of each part, as equal as can be, in every class where there are classes."""
    order = seeding.permutation(seeding.key(seed, "gain"), [0], len(y))[0].numpy()
    if classes:
        order = order[np.argsort(y.numpy()[order], kind="stable")]
    count = min(MAX_FOLDS, len(y))
    return [torch.from_numpy(order[first::count].copy()) for first in range(count)]
