"""The figures of runs, drawn with matplotlib: the same bytes for the same runs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.quantities import decimal_prefix, quantity
from fedmaml.report import adaptation, cells, forest, pairs, series, words
from fedmaml.report.canvas import GREY, INK, LOCAL, Drawing, Look, line, looks_of, size
from fedmaml.report.placing import at_the_edge, label_points, limits_without
from fedmaml.report.reading import Material

NAMES = (
    "differences",
    *(f"{kind}-{scale}" for kind in ("validation", "loss") for scale in series.SCALES),
    "pareto-bytes", "pareto-flops", "steps", "shots", "cells-*", "clients", "pairs", "groups-*",
)  # fmt: skip
"""Of all figures there are, in the order of the page; * stands for a label or metric."""

_OVER = {"rounds": "rounds", "bytes": "bytes sent and received", "flops": "operations"}
_UNITS = {"bytes": "B", "flops": "FLOP"}


def draw(material: Material) -> Iterator[Drawing]:
    """Return all figures for which the runs hold numbers, in the order of the page.

    A scale on which all strategies pay the same for a round has no figure of its own: it would be
    the one against rounds again.
    """
    drawn: Counter[str] = Counter()
    for drawing in filter(None, _all(material)):
        drawn[drawing.name] += 1
        again = drawn[drawing.name]  # labels may differ in letters that no file name has
        yield replace(drawing, name=f"{drawing.name}-{again}") if again > 1 else drawing


def _all(material: Material) -> Iterator[Drawing | None]:
    looks = looks_of(list(material.runs))
    label, better = words.metric_label(material.metric), material.metric.better
    yield _differences(material, looks)
    yield from _learning("validation", material, looks, label)
    yield from _learning("loss", material, looks, "training loss")
    for scale in series.SCALES[1:]:
        yield _pareto(scale, series.trained_for(material, scale), looks, label, better)
    yield from adaptation.drawings(material, looks, label)
    yield from cells.drawings(material)
    yield _clients(series.spreads(material), looks, label, material.evaluated)
    yield pairs.drawing(material, looks)
    yield from forest.drawings(material, looks)


# --- one function per figure ------------------------------------------------------------------


def _differences(material: Material, looks: Mapping[str, Look]) -> Drawing | None:
    """Draw the difference of every strategy to the reference, with its interval."""
    if material.comparison is None:
        return None
    rows = {
        row: row.difference
        for row in reversed(material.comparison.rows)
        if row.strategy != REFERENCE and row.difference is not None
    }
    if not rows:
        return None
    extents = {
        row.strategy: (min(ends), max(ends))
        for row, difference in rows.items()
        for ends in [(difference, *(row.difference_ci95 or ()))]
    }
    ends = limits_without(LOCAL, extents, 0.0)

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=size(1))
        for place, (row, difference) in enumerate(rows.items()):
            look = looks[row.strategy]
            if ends and row.strategy == LOCAL:
                at_the_edge(axes, difference, place, look, ends)
                continue
            if row.difference_ci95 is not None:
                axes.plot(
                    row.difference_ci95, [place, place], marker="|", color=look.colour,
                    linewidth=size(1.8), markersize=size(9), markeredgewidth=size(1.8),
                )  # fmt: skip
            axes.plot(
                difference, place, look.marker, color=look.colour, markersize=size(6.5),
                markeredgecolor="white", markeredgewidth=size(0.8), zorder=3,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [words.shown(row.strategy) for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        if ends:
            axes.set_xlim(*ends)
        axes.grid(axis="y", visible=False)
        better = "right" if material.metric.better == "higher" else "left"
        axes.set_xlabel(
            f"{words.metric_label(material.metric)}, minus FedAvg (better: {better})",
            fontsize=size(9.5),
        )

    return Drawing(
        "differences", "answer", "Difference to fine-tuned FedAvg, 95 % intervals",
        words.differences([*reversed(rows)]), paint,
        ("strategy", "difference", "low", "high"),
        tuple(
            (row.strategy, difference, *(row.difference_ci95 or (None, None)))
            for row, difference in reversed(rows.items())
        ),
        height=1.2 + 0.34 * len(rows),
    )  # fmt: skip


def _learning(
    kind: str, material: Material, looks: Mapping[str, Look], label: str
) -> Iterator[Drawing]:
    """Draw a value over the course of training, on every scale that tells something new."""
    found = series.validation if kind == "validation" else series.training_loss
    rounds = found(material, "rounds")
    for scale in series.SCALES:
        curves = rounds if scale == "rounds" else found(material, scale)
        if not curves or (scale != "rounds" and series.per_round(curves, rounds) is not None):
            continue
        same = [
            f"{_OVER[other]}: {quantity(each, _UNITS[other])} a round"
            for other in series.SCALES[1:]
            if scale == "rounds"
            and (each := series.per_round(found(material, other), rounds)) is not None
        ]
        yield _curves(kind, scale, curves, looks, label, same)


def _curves(
    kind: str,
    scale: series.Scale,
    curves: Mapping[str, series.Curve],
    looks: Mapping[str, Look],
    label: str,
    same: Sequence[str],
) -> Drawing:
    over = _OVER[scale]

    def paint(axes: Axes) -> None:
        for name, curve in curves.items():
            line(axes, name, curve, looks[name])
        _scale_axis(axes, scale)
        axes.set_ylabel(label)
        if kind == "loss" and _positive(curves) > 30:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")

    what = words.capital(label if kind == "validation" else "Training loss")
    equal = f" (every line takes the same {' and '.join(same)})" if same else ""
    return Drawing(
        f"{kind}-{scale}", kind, f"{what} against {over}{equal}",
        words.curves(curves, over, label), paint,
        ("strategy", scale, "mean", "lowest_seed", "highest_seed"), series.points(curves),
        looks={name: looks[name] for name in curves},
    )  # fmt: skip


def _pareto(
    scale: str,
    points: Mapping[str, tuple[float, float]],
    looks: Mapping[str, Look],
    label: str,
    better: str,
) -> Drawing | None:
    """Draw the metric against the cost of training, and the Pareto front."""
    points = {name: point for name, point in points.items() if np.isfinite(point[1])}
    spent = [cost for cost, _ in points.values() if cost > 0]
    if len(points) < 2 or (spent and np.ptp(spent) <= 1e-9 * max(spent)):
        return None  # equal costs order nothing; the table of costs has them
    best = series.front(points, better)
    ends = limits_without(LOCAL, {name: (value, value) for name, (_, value) in points.items()})

    def paint(axes: Axes) -> None:
        x, y = np.array([points[name] for name in best]).T
        axes.step(x, y, where="post", color=GREY, linewidth=size(1), linestyle="--", zorder=1)
        _cost_axis(axes, [cost for cost, _ in points.values()], scale)
        axes.set_ylabel(label)
        axes.plot(*np.array([*points.values()]).T, linestyle="")  # limits, room for the symbols
        axes.margins(0.09, 0.12)
        if ends:
            axes.set_ylim(*ends)
        label_points(axes, points, looks, best, ends)

    return Drawing(
        f"pareto-{scale}", "pareto", f"{words.capital(label)} against {_OVER[scale]} of training",
        words.pareto(points, best, scale), paint,
        ("strategy", scale, "mean", "on_the_front"),
        tuple((name, *point, name in best) for name, point in points.items()),
    )  # fmt: skip


def _clients(
    spreads: Mapping[str, series.Spread], looks: Mapping[str, Look], label: str, evaluated: str
) -> Drawing | None:
    """Draw how the metric is spread over the clients that were evaluated."""
    if not spreads or max(len(spread.values) for spread in spreads.values()) < 3:
        return None
    names = list(spreads)[::-1]

    def paint(axes: Axes) -> None:
        for place, name in enumerate(names):
            look, values = looks[name], spreads[name].values
            shown = np.quantile(values, np.linspace(0, 1, min(len(values), 150)))
            golden = (np.arange(len(shown)) * 0.618034) % 1 - 0.5  # spreads evenly, by no chance
            axes.plot(
                shown, place + 0.5 * golden, ".", color=look.colour, alpha=0.25,
                markersize=size(4), markeredgewidth=0,
            )  # fmt: skip
            low, first, middle, third, high = np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9])
            axes.plot([low, high], [place, place], color=look.colour, linewidth=size(1.4))
            axes.plot(
                [first, third], [place, place], color=look.colour, linewidth=size(7),
                solid_capstyle="butt",
            )  # fmt: skip
            axes.plot(
                middle, place, "|", color="white", markersize=size(6), markeredgewidth=size(2)
            )
            axes.plot(
                spreads[name].worst_decile, place, look.marker, color=look.colour,
                markerfacecolor="white", markersize=size(6.5), markeredgewidth=size(1.5),
            )  # fmt: skip
        axes.set_yticks(range(len(names)), [words.shown(name) for name in names])
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{label} of a {evaluated} client, after adaptation")

    return Drawing(
        "clients", "clients", f"{words.capital(label)} from client to client",
        words.clients(spreads), paint, ("strategy", "value"),
        tuple((name, float(value)) for name in spreads for value in spreads[name].values),
        height=1.1 + 0.42 * len(names),
    )  # fmt: skip


# --- axes --------------------------------------------------------------------------------------


def _scale_axis(axes: Axes, scale: series.Scale) -> None:
    if scale == "rounds":
        axes.set_xlabel("rounds")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    else:
        _cost_axis(axes, [axes.dataLim.x1], scale)
        axes.set_xlim(left=0)


def _cost_axis(axes: Axes, costs: Sequence[float], scale: str) -> None:
    """Label a cost with its unit; logarithmic where costs lie more than a factor of 50 apart."""
    what = "payload" if scale == "bytes" else "operations"
    positive = [cost for cost in costs if cost > 0]
    if positive and max(positive) > 50 * min(positive):
        axes.set_xscale("symlog", linthresh=min(positive))
    prefix, factor = decimal_prefix(max(positive, default=1.0))
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value / factor:g}")
    axes.set_xlabel(f"{what}, all clients [{prefix}{_UNITS[scale]}]")


def _positive(curves: Mapping[str, series.Curve]) -> float:
    """Return the ratio of the largest to the smallest value; 0 if one is not positive."""
    values = np.concatenate([curve.mean for curve in curves.values()])
    values = values[np.isfinite(values)]
    return float(values.max() / values.min()) if len(values) and values.min() > 0 else 0.0
