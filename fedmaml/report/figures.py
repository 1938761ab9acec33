"""The figures of a report, drawn with matplotlib: the same bytes for the same runs."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.quantities import decimal_prefix
from fedmaml.report import series, words
from fedmaml.report.canvas import GREY, INK, Figure, Look, figure, line, looks_of
from fedmaml.report.reading import Material

NAMES = (
    "differences",
    *(f"{kind}-{scale}" for kind in ("validation", "loss") for scale in series.SCALES),
    "pareto-bytes", "pareto-flops", "steps", "shots", "clients",
)  # fmt: skip
"""Of all figures there are, in the order of the page."""


def draw(material: Material) -> Iterator[Figure]:
    """Draw all figures for which the runs hold numbers, in the order of the page."""
    return filter(None, _all(material))


def _all(material: Material) -> Iterator[Figure | None]:
    looks = looks_of(list(material.runs))
    label, better = words.metric_label(material.metric), material.metric.better
    yield _differences(material, looks)
    for scale in series.SCALES:
        yield _learning("validation", scale, series.validation(material, scale), looks, label)
    for scale in series.SCALES:
        yield _learning(
            "loss", scale, series.training_loss(material, scale), looks, "training loss"
        )
    for scale in series.SCALES[1:]:
        yield _pareto(scale, series.trained_for(material, scale), looks, label, better)
    yield _steps(series.at_steps(material), series.own_steps_of(material), looks, label)
    yield _shots(series.at_shots(material), looks, label)
    yield _clients(series.spreads(material), looks, label, material.evaluated)


# --- one function per figure ------------------------------------------------------------------


def _differences(material: Material, looks: Mapping[str, Look]) -> Figure | None:
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

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for place, (row, difference) in enumerate(rows.items()):
            look = looks[row.strategy]
            if row.difference_ci95 is not None:
                axes.plot(row.difference_ci95, [place, place], color=look.colour, linewidth=2)
            axes.plot(difference, place, look.marker, color=look.colour, markersize=7)
        axes.set_yticks(range(len(rows)), [row.strategy for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="y", visible=False)
        better = "right" if material.metric.better == "higher" else "left"
        axes.set_xlabel(
            f"{words.metric_label(material.metric)}, minus fine-tuned FedAvg (better: {better})",
            fontsize=9.5,
        )

    return figure(
        "differences", "answer", "Difference to fine-tuned FedAvg, 95 % intervals",
        words.differences([*reversed(rows)]), paint, height=1.2 + 0.34 * len(rows),
    )  # fmt: skip


def _learning(
    kind: str,
    scale: series.Scale,
    curves: Mapping[str, series.Curve],
    looks: Mapping[str, Look],
    label: str,
) -> Figure | None:
    """Draw a value over the course of training."""
    if not curves:
        return None
    over = {"rounds": "rounds", "bytes": "bytes sent and received", "flops": "operations"}[scale]

    def paint(axes: Axes) -> None:
        for name, curve in curves.items():
            line(axes, name, curve, looks[name])
        _scale_axis(axes, scale)
        axes.set_ylabel(label)
        if kind == "loss" and _positive(curves) > 30:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")

    what = label if kind == "validation" else "Training loss"
    return figure(
        f"{kind}-{scale}", kind, f"{words.capital(what)} against {over}",
        words.curves(curves, over, label), paint, looks={n: looks[n] for n in curves},
    )  # fmt: skip


def _pareto(
    scale: str,
    points: Mapping[str, tuple[float, float]],
    looks: Mapping[str, Look],
    label: str,
    better: str,
) -> Figure | None:
    """Draw the metric against the cost of training, and the Pareto front."""
    points = {name: point for name, point in points.items() if np.isfinite(point[1])}
    if len(points) < 2:
        return None
    best = series.front(points, better)

    def paint(axes: Axes) -> None:
        x, y = np.array([points[name] for name in best]).T
        axes.step(x, y, where="post", color=GREY, linewidth=1, linestyle="--", zorder=1)
        for name, (cost, value) in points.items():
            look = looks[name]
            inside = look.colour if name in best else "white"
            axes.plot(
                cost, value, look.marker, color=look.colour, markerfacecolor=inside,
                markersize=8, markeredgewidth=1.6,
            )  # fmt: skip
        _cost_axis(axes, [cost for cost, _ in points.values()], scale)
        axes.set_ylabel(label)
        axes.margins(0.09, 0.12)

    unit = "bytes sent and received" if scale == "bytes" else "operations"
    return figure(
        f"pareto-{scale}", "pareto", f"{words.capital(label)} against {unit} of training",
        words.pareto(points, best, scale), paint,
        looks={name: looks[name] for name in points}, lines=False,
    )  # fmt: skip


def _steps(
    curves: Mapping[str, series.Curve],
    own: Mapping[str, float],
    looks: Mapping[str, Look],
    label: str,
) -> Figure | None:
    """Draw the metric against the number of gradient steps of the adaptation."""
    axis = "gradient steps of the adaptation"
    return _by_count("steps", "Adaptation steps", axis, curves, own, looks, label)


def _shots(
    curves: Mapping[str, series.Curve], looks: Mapping[str, Look], label: str
) -> Figure | None:
    """Draw the metric against the size of the support."""
    return _by_count("shots", "Shots", "support examples (shots)", curves, {}, looks, label)


def _by_count(
    name: str,
    title: str,
    axis: str,
    curves: Mapping[str, series.Curve],
    ringed: Mapping[str, float],
    looks: Mapping[str, Look],
    label: str,
) -> Figure | None:
    """Draw the metric against counts, one place for each: 0, 1, 5, 30 lie too far apart."""
    if not curves:
        return None
    counts = sorted({count for curve in curves.values() for count in curve.x})

    def paint(axes: Axes) -> None:
        for strategy, curve in curves.items():
            places = np.array([counts.index(count) for count in curve.x], dtype=float)
            moved = series.Curve(places, curve.mean, curve.low, curve.high)
            look = looks[strategy]
            line(axes, strategy, moved, look, every=1)
            for position in np.flatnonzero(curve.x == ringed.get(strategy, np.nan)):
                axes.plot(
                    places[position], curve.mean[position], "o", color=look.colour,
                    markerfacecolor="none", markersize=11, markeredgewidth=1.2,
                )  # fmt: skip
        axes.set_xticks(range(len(counts)), [words.count(count) for count in counts])
        axes.set_xlabel(axis)
        axes.set_ylabel(label)

    return figure(
        name, "adaptation", f"{words.capital(label)} against {title.lower()}",
        words.curves(curves, axis, label), paint, looks={n: looks[n] for n in curves},
    )  # fmt: skip


def _clients(
    spreads: Mapping[str, series.Spread], looks: Mapping[str, Look], label: str, evaluated: str
) -> Figure | None:
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
                shown, place + 0.5 * golden, ".", color=look.colour, alpha=0.25, markersize=4,
                markeredgewidth=0,
            )  # fmt: skip
            low, first, middle, third, high = np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9])
            axes.plot([low, high], [place, place], color=look.colour, linewidth=1.4)
            axes.plot(
                [first, third], [place, place], color=look.colour, linewidth=7,
                solid_capstyle="butt",
            )  # fmt: skip
            axes.plot(middle, place, "|", color="white", markersize=6, markeredgewidth=2)
            axes.plot(
                spreads[name].worst_decile, place, look.marker, color=look.colour,
                markerfacecolor="white", markersize=6.5, markeredgewidth=1.5,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{label} of a {evaluated} client, after adaptation")

    return figure(
        "clients", "clients", f"{words.capital(label)} from client to client",
        words.clients(spreads), paint, height=1.1 + 0.42 * len(names),
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
    what, unit = ("payload", "B") if scale == "bytes" else ("operations", "FLOP")
    positive = [cost for cost in costs if cost > 0]
    if positive and max(positive) > 50 * min(positive):
        axes.set_xscale("symlog", linthresh=min(positive))
    prefix, size = decimal_prefix(max(positive, default=1.0))
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value / size:g}")
    axes.set_xlabel(f"{what}, all clients [{prefix}{unit}]")


def _positive(curves: Mapping[str, series.Curve]) -> float:
    """Return the ratio of the largest to the smallest value; 0 if one is not positive."""
    values = np.concatenate([curve.mean for curve in curves.values()])
    values = values[np.isfinite(values)]
    return float(values.max() / values.min()) if len(values) and values.min() > 0 else 0.0
