"""The numbers behind the figures: one value per run first, then mean and range over seeds.

A value that is missing, undefined or infinite ("diverged") is NaN here, and a gap in a figure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedmaml.comparison.conclusions import is_baseline
from fedmaml.report.reading import Material, Run

Scale = Literal["rounds", "bytes", "flops"]
SCALES: tuple[Scale, ...] = ("rounds", "bytes", "flops")

_MAX_POINTS = 120  # a line in a figure of 5 inches shows no more
_WORST = 0.1
_MAX_REFERENCES = 3


@dataclass(frozen=True)
class Curve:
    """Mean over seeds with a band: from the lowest to the highest seed unless said otherwise.

    Attributes:
        x: Where; shape ``(points,)``.
        mean: Shape ``(points,)``.
        low: Lowest seed, or the lower end of an interval.
        high: Highest seed, or the upper end.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Spread:
    """How a metric differs from client to client, seeds together.

    Attributes:
        values: After adaptation, ascending, finite ones only.
        mean: Over clients.
        deviation: Standard deviation between clients.
        worst_decile: Mean of the worst tenth of the clients, at least one.
        median: Middle client.
        best: Best client.
        worst: Worst client.
        lost: Clients whose value is undefined or infinite; they are in none of the others.
    """

    values: np.ndarray
    mean: float
    deviation: float
    worst_decile: float
    median: float
    best: float
    worst: float
    lost: int


def validation(material: Material, scale: Scale) -> dict[str, Curve]:
    """Return the headline metric on validation clients after adaptation, over training."""
    name = f"{material.metric.name}:after"
    return _curves(material, scale, lambda record: record.get("evaluation", {}), name)


def training_loss(material: Material, scale: Scale) -> dict[str, Curve]:
    """Return the loss after adaptation that the clients of each round report."""
    return _curves(material, scale, lambda record: record["metrics"], "loss_after")


def trained_for(material: Material, scale: Scale) -> dict[str, tuple[float, float]]:
    """Return the cost of the whole training, and the metric on evaluated clients after it."""
    found = {}
    for name, runs in material.runs.items():
        total = np.mean([_totals(run, scale) for run in runs])
        if np.isfinite(total):
            found[name] = (
                float(total),
                _mean([number_of(run.summary["metric"]["after"]) for run in runs]),
            )
    return found


def front(points: Mapping[str, tuple[float, float]], better: str) -> list[str]:
    """Return the names that no other beats in both cost and metric, cheapest first.

    Args:
        points: Name -> (cost, metric).
        better: "higher" or "lower".
    """
    sign = 1 if better == "higher" else -1
    defined = {
        name: (cost, sign * value) for name, (cost, value) in points.items() if value == value
    }
    return sorted(
        (
            name
            for name, (cost, value) in defined.items()
            if not any(
                other_cost <= cost and other >= value and (other_cost, other) != (cost, value)
                for other_cost, other in defined.values()
            )
        ),
        key=lambda name: defined[name],
    )


def best_meta_strategy(material: Material) -> str | None:
    """Return the meta-learning strategy with the best mean over evaluated clients and seeds.

    None unless the runs are compared with fine-tuned FedAvg, and one of meta-learning is among them
    that did not diverge.
    """
    if material.comparison is None:
        return None
    sign = 1 if material.metric.better == "higher" else -1
    means = {
        name: sign * _mean([number_of(run.summary["metric"]["after"]) for run in runs])
        for name, runs in material.runs.items()
        if not is_baseline(name)
    }
    defined = {name: mean for name, mean in means.items() if np.isfinite(mean)}
    return max(defined, key=lambda name: defined[name]) if defined else None


def references_to_draw(material: Material, metric: str, *, first: bool = False) -> dict[str, float]:
    """Return the means of the best references that are federated and know no answer.

    A reference is the same in all runs of a seed, so those of one line are enough. It adapts on the
    whole support of a client.

    Args:
        material: The runs.
        metric: Name of the metric.
        first: Return the scenario's first reference in any case: usually a constant.
    """
    entries = [_references(run, metric) for run in next(iter(material.runs.values()))]
    means = {name: _mean([one.get(name, np.nan) for one in entries]) for name in entries[0]}
    known = [name for name, mean in means.items() if np.isfinite(mean)]
    better = _better(material, metric)
    best = sorted(known, key=lambda name: -means[name] if better == "higher" else means[name])
    chosen = {*best[:_MAX_REFERENCES], *(known[:1] if first else [])}
    return {name: means[name] for name in known if name in chosen}


def _references(run: Run, metric: str) -> dict[str, float]:
    return {
        reference["name"]: number_of(entry["mean"])
        for reference in run.summary.get("references", ())
        if reference["federated"] and not reference["oracle"]
        for entry in reference["metrics"]
        if entry["name"] == metric
    }


def _better(material: Material, metric: str) -> str:
    run = next(iter(material.runs.values()))[0]
    others = {entry["name"]: entry["better"] for entry in run.summary.get("metrics", ())}
    return str(others.get(metric, material.metric.better))


def spreads(material: Material) -> dict[str, Spread]:
    """Return how the metric after adaptation differs between clients."""
    column = f"{material.metric.name}:after"
    found = {}
    for name, runs in material.runs.items():
        everyone = np.array([number_of(row.get(column)) for run in runs for row in run.own_clients])
        values = np.sort(everyone[np.isfinite(everyone)])
        if len(values):
            best_first = values if material.metric.better == "lower" else values[::-1]
            worst = best_first[-max(1, round(_WORST * len(values))) :]
            found[name] = Spread(
                values=values,
                mean=float(values.mean()),
                deviation=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
                worst_decile=float(worst.mean()),
                median=float(np.median(values)),
                best=float(best_first[0]),
                worst=float(best_first[-1]),
                lost=len(everyone) - len(values),
            )
    return found


def per_round(curves: Mapping[str, Curve], rounds: Mapping[str, Curve]) -> float | None:
    """Return the cost of a round where every line has the same in every round; else None.

    Args:
        curves: Over a cost.
        rounds: The same lines over rounds.
    """
    if curves.keys() != rounds.keys() or not curves:
        return None
    each = np.concatenate([curves[name].x / rounds[name].x for name in curves])
    return float(each[0]) if np.allclose(each, each[0], rtol=1e-9, atol=0) else None


def number_of(value: Any) -> float:
    """Return a finite number; NaN for any other value."""
    finite = isinstance(value, int | float) and np.isfinite(value)
    return float(value) if finite else np.nan


def points(curves: Mapping[str, Curve]) -> tuple[tuple[Any, ...], ...]:
    """Return lines as rows: name, x, mean, low, high."""
    return tuple(
        (name, *map(float, point))
        for name, curve in curves.items()
        for point in zip(curve.x, curve.mean, curve.low, curve.high, strict=True)
    )


# --- helpers ----------------------------------------------------------------------------------


def _curves(
    material: Material,
    scale: Scale,
    source: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    key: str,
) -> dict[str, Curve]:
    """Draw a value of the rounds over a scale, at the rounds where at least one seed has it."""
    curves = {}
    for name, runs in material.runs.items():
        tables = [[source(record) for record in run.rounds] for run in runs]
        chosen = [
            position
            for position in range(min(map(len, tables)))
            if any(key in table[position] for table in tables)
        ]
        x = np.mean([_spending(run, scale)[chosen] for run in runs], axis=0)
        if chosen and np.isfinite(x).all():
            values = [[number_of(table[at].get(key)) for at in chosen] for table in tables]
            curves[name] = _thinned(x, np.array(values))
    return curves


def _spending(run: Run, scale: Scale) -> np.ndarray:
    """Return the cost of training until the end of each round."""
    if scale == "rounds":
        return np.arange(1.0, len(run.rounds) + 1)
    return np.cumsum([_spent(record["cost"], scale) for record in run.rounds])


def _spent(cost: Mapping[str, Any], scale: Scale) -> float:
    """Return bytes or operations of a ``cost``; NaN unless every client reported them."""
    if scale == "bytes":
        return float(cost["payload_bytes_down"] + cost["payload_bytes_up"])
    return float(cost["flops"]) if cost["updates_measured"] == cost["updates"] else np.nan


def _totals(run: Run, scale: Scale) -> float:
    if scale == "rounds":
        return float(run.summary["rounds"])
    return _spent(run.summary["cost"]["totals"], scale)


def _thinned(x: np.ndarray, values: np.ndarray) -> Curve:
    """Average neighbours until there are few enough points; then mean and range over seeds."""
    if len(x) > _MAX_POINTS:
        parts = np.array_split(np.arange(len(x)), _MAX_POINTS)
        x = np.array([x[part].mean() for part in parts])
        known = np.ma.masked_invalid(values)
        values = np.stack([known[:, part].mean(1).filled(np.nan) for part in parts], 1)
    return Curve(x, values.mean(0), values.min(0), values.max(0))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
