"""The metric against the steps and the shots of the adaptation: its numbers and its figures."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fedmaml.report import series, words
from fedmaml.report.canvas import Drawing, Look, line, looks_of_references, size
from fedmaml.report.reading import Material, Run

Stage = tuple[float, float, float]
"""A run's mean over its clients, and the ends of its interval: NaN where there is none."""


def drawings(material: Material, looks: Mapping[str, Look], label: str) -> Iterator[Drawing | None]:
    """Draw the metric against steps, then against shots; None without the numbers."""
    references = series.references_to_draw(material, material.metric.name)
    yield _by_count(
        "steps", "Adaptation steps", "gradient steps of the adaptation", at_steps(material),
        _own_steps_of(material), looks, references, label,
    )  # fmt: skip
    yield _by_count("shots", "Shots", "support examples (shots)", at_shots(material), {}, looks,
                    references, label)  # fmt: skip


# --- numbers ----------------------------------------------------------------------------------


def at_steps(material: Material) -> dict[str, series.Curve]:
    """Return the metric at numbers of adaptation steps: 0, those set, the strategy's own."""

    def values(run: Run) -> dict[float, Stage]:
        metric, own = run.summary["metric"], own_steps(run)
        if own is None or "at_steps" not in metric:
            return {}
        before, after = _ends(metric)
        return {0.0: before, **_between(metric["at_steps"]), float(own): after}

    return _curves(material, values)


def at_shots(material: Material) -> dict[str, series.Curve]:
    """Return the metric at support sizes; infinity stands for the whole support, 0 for none."""

    def values(run: Run) -> dict[float, Stage]:
        metric = run.summary["metric"]
        if "at_shots" not in metric:
            return {}
        before, after = _ends(metric)
        return {0.0: before, **_between(metric["at_shots"]), np.inf: after}

    return _curves(material, values)


def own_steps(run: Run) -> int | None:
    """Return how many gradient steps a run's strategy adapts with; None if it takes none."""
    for name in ("adaptation", "inner"):
        if name in run.table:
            return int(run.table[name]["steps"])
    return None


def _own_steps_of(material: Material) -> dict[str, float]:
    steps = {name: own_steps(runs[0]) for name, runs in material.runs.items()}
    return {name: float(count) for name, count in steps.items() if count is not None}


def _ends(metric: Mapping[str, Any]) -> tuple[Stage, Stage]:
    """Return the metric before adaptation, and after it."""
    before = _stage(metric["before"], metric.get("ci95_before"))
    return before, _stage(metric["after"], metric.get("ci95"))


def _between(entries: Mapping[str, Any]) -> dict[float, Stage]:
    return {float(at): _stage(entry["mean"], entry.get("ci95")) for at, entry in entries.items()}


def _stage(mean: float | None, interval: tuple[float, float] | None) -> Stage:
    low, high = interval or (None, None)
    return series.number_of(mean), series.number_of(low), series.number_of(high)


def _curves(
    material: Material, values: Callable[[Run], Mapping[float, Stage]]
) -> dict[str, series.Curve]:
    """Return the lines with a band: the range of the seeds; of one seed, its interval."""
    curves = {}
    for name, runs in material.runs.items():
        found = [values(run) for run in runs]
        keys = sorted(set.intersection(*(set(one) for one in found)))
        keys = [key for key in keys if all(np.isfinite(one[key][0]) for one in found)]
        if len(keys) > 1:
            table = np.array([[one[key] for key in keys] for one in found])
            means = table[..., 0]
            if len(runs) == 1:
                low, high = np.where(np.isnan(table[0, :, 1:]), means.T, table[0, :, 1:]).T
            else:
                low, high = means.min(0), means.max(0)
            curves[name] = series.Curve(np.array(keys), means.mean(0), low, high)
    return curves


# --- drawing ----------------------------------------------------------------------------------


def _by_count(
    name: str,
    title: str,
    axis: str,
    curves: Mapping[str, series.Curve],
    ringed: Mapping[str, float],
    looks: Mapping[str, Look],
    references: Mapping[str, float],
    label: str,
) -> Drawing | None:
    """Draw the metric against counts, one place for each: 0, 1, 5, 30 lie too far apart."""
    if not curves:
        return None
    counts = sorted({count for curve in curves.values() for count in curve.x})
    others = looks_of_references([*references])

    def paint(axes: Axes) -> None:
        for reference, value in references.items():
            look = others[reference]
            ends = [0, len(counts) - 1.5, len(counts) - 1]  # the marker is apart from the others
            axes.plot(ends, [value] * 3, color=look.colour, zorder=1.5,
                      linestyle=look.line, linewidth=size(1.2), marker=look.marker,
                      markersize=size(5), markevery=[1])  # fmt: skip
        for strategy, curve in curves.items():
            places = np.array([counts.index(count) for count in curve.x], dtype=float)
            moved = series.Curve(places, curve.mean, curve.low, curve.high)
            look = looks[strategy]
            line(axes, strategy, moved, look, every=1)
            for position in np.flatnonzero(curve.x == ringed.get(strategy, np.nan)):
                axes.plot(
                    places[position], curve.mean[position], "o", color=look.colour,
                    markerfacecolor="none", markersize=size(11), markeredgewidth=size(1.2),
                )  # fmt: skip
        axes.set_xticks(range(len(counts)), [words.count(count) for count in counts])
        axes.set_xlabel(axis)
        axes.set_ylabel(label)

    return Drawing(
        name, "adaptation", f"{words.capital(label)} against {title.lower()}",
        words.curves(curves, axis, label) + words.references(references), paint,
        ("strategy", name, "mean", "low", "high"),
        (*series.points(curves), *((one, None, value, None, None)
                                   for one, value in references.items())),
        looks={name: looks[name] for name in curves} | others,
    )  # fmt: skip
