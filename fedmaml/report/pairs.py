"""Every evaluated client as a mark: the best meta-learning strategy against fine-tuned FedAvg.

Clients whose values are equal share a mark, whose area is their number.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.report import series, words
from fedmaml.report.canvas import GREY, Drawing, Look, size
from fedmaml.report.reading import Material
from fedmaml.runs.references import values_of

MAX_DOTS = 600
_FEWEST, _FEW = 3, 60
_SMALLEST, _WIDEST = 2.2, 14.0  # points across a mark

Pair = tuple[int, int, float, float]
"""Seed, client, value of FedAvg, value of the strategy."""


def drawing(material: Material, looks: Mapping[str, Look]) -> Drawing | None:
    """Draw the pairs; None without a comparison, a meta-learning strategy or three clients."""
    best = series.best_meta_strategy(material)
    pairs = pairs_of(material, best) if best else []
    if best is None or len(pairs) < _FEWEST:
        return None
    label, name = words.metric_label(material.metric), words.shown(best)
    higher = material.metric.better == "higher"
    shares = _shares(pairs, higher)
    look = looks[best]
    points, counts = np.unique(
        np.array([pair[2:] for pair in pairs]).round(6), axis=0, return_counts=True
    )
    kept = np.unique(np.linspace(0, len(points) - 1, MAX_DOTS).astype(int))

    def paint(axes: Axes) -> None:
        x, y = points[kept].T
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        margin = 0.06 * (high - low) or 0.5
        ends = low - margin, high + margin
        axes.plot(ends, ends, color=GREY, linewidth=size(1), linestyle="--", zorder=1)
        axes.scatter(x, y, _areas(counts[kept]), color=look.colour, marker=look.marker, zorder=2,
                     alpha=0.8 if len(x) <= _FEW else 0.4, linewidths=0)  # fmt: skip
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        axes.set_aspect("equal")
        ours, theirs, _ = shares
        above, below = ((name, ours), ("FedAvg", theirs))[:: 1 if higher else -1]
        for (who, share), place, (across, along) in (
            (above, (0.03, 0.97), ("left", "top")),
            (below, (0.97, 0.03), ("right", "bottom")),
        ):
            axes.text(*place, f"{who} better:\n{share}", transform=axes.transAxes, ha=across,
                      va=along, fontsize=size(9.5), zorder=1)  # fmt: skip
        axes.set_xlabel(f"{words.shown(REFERENCE)}, fine-tuned: {label}")
        axes.set_ylabel(f"{name}: {label}")

    title = f"{words.capital(label)} of each client: {name} against fine-tuned FedAvg"
    if len(points) > len(kept):
        title += f"; {len(kept)} of {len(points):,} different pairs are shown"
    return Drawing(
        "pairs", "clients", title, words.pairs(name, len(pairs), *shares), paint,
        ("seed", "client", "fedavg", best), tuple(pairs), height=3.4,
    )  # fmt: skip


def pairs_of(material: Material, strategy: str) -> list[Pair]:
    """Return the clients that both have a finite value of, in the order of seeds and clients."""
    column = f"{material.metric.name}:after"
    theirs = {int(run.table["seed"]): run for run in material.runs[REFERENCE]}
    pairs = []
    for run in material.runs[strategy]:
        seed = int(run.table["seed"])
        if seed not in theirs:
            continue
        x, y = (values_of(one.clients, column) for one in (theirs[seed], run))
        pairs += [(seed, client, x[client], y[client]) for client in sorted(x.keys() & y.keys())]
    return [pair for pair in pairs if np.isfinite(pair[2:]).all()]


def _areas(counts: np.ndarray) -> np.ndarray:
    """Return the areas of marks that stand for so many equal pairs; none is too small to see."""
    across = min(4.5, _WIDEST / float(np.sqrt(counts.max()))) * np.sqrt(counts)
    areas: np.ndarray = np.square([size(each) for each in np.maximum(across, _SMALLEST)])
    return areas


def _shares(pairs: list[Pair], higher: bool) -> tuple[str, str, str]:
    """Return at which share of the clients the strategy is better, FedAvg is, and neither."""
    difference = np.array([ours - theirs for _, _, theirs, ours in pairs])
    sign = np.sign(difference) * (1 if higher else -1)
    return tuple(f"{100 * float(np.mean(sign == side)):.0f} %" for side in (1, -1, 0))  # type: ignore[return-value]
