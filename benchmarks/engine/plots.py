"""Two figures: time per client against the number of clients, and against the size of the network.

Colours are Okabe and Ito's, distinct for people with any colour vision; every line also has a
marker of its own and its name at its end.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no window
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.engine.cases import CLIENT_SWEEP, SIZE_SWEEP, Case
from benchmarks.engine.measure import Row

_STYLES = {
    "higher": ("#777777", "v"),
    "learn2learn": ("#0072B2", "s"),
    "deepcopy loop": ("#000000", "o"),
    "torch.func.vmap": ("#009E73", "^"),
    "JAX jit(vmap)": ("#CC79A7", "D"),
    "fedmaml": ("#D55E00", "o"),
}
"""Peers that are drawn; the others lie on top of these."""
_OURS = "fedmaml"
_SETTINGS = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "svg.fonttype": "none",
}
Points = list[tuple[float, float]]
_MIN_GAP = 0.065  # between names, as a fraction of the figure's height


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Write both figures as SVG and PNG.

    Args:
        rows: Of the sweeps, and perhaps others.
        folder: Where to; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_SETTINGS):
        _figure(
            _series(rows, CLIENT_SWEEP, lambda case, _: case.clients),
            "clients in a round",
            "A first-order MAML round of a small network (13-32-2)",
            folder / "clients",
        )
        _figure(
            _series(rows, SIZE_SWEEP, lambda _, row: row.parameters),
            "parameters of the network",
            "A first-order MAML round of fully connected networks",
            folder / "parameters",
        )


def _series(
    rows: Sequence[Row], cases: Sequence[Case], x: Callable[[Case, Row], float]
) -> dict[str, Points]:
    """Return each contender's points; fedmaml's are those of its fastest engine."""
    series: dict[str, Points] = {}
    for case in cases:
        best: dict[str, tuple[float, float]] = {}
        for row in rows:
            if row.case != case.name or row.microseconds_per_client is None:
                continue
            name = _OURS if row.contender.startswith(_OURS) else row.contender
            point = (x(case, row), row.microseconds_per_client)
            if name in _STYLES and point[1] < best.get(name, (0.0, float("inf")))[1]:
                best[name] = point
        for name, point in best.items():
            series.setdefault(name, []).append(point)
    return series


def _figure(series: dict[str, Points], x_label: str, title: str, file: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.4), dpi=200)
    axes.set(xscale="log", yscale="log", xlabel=x_label)
    axes.set_title(f"{title}\nprocessor time per client, µs", pad=10)
    axes.grid(which="major", color="#dddddd", linewidth=0.7)
    for name, points in series.items():
        colour, marker = _STYLES[name]
        ours = name == _OURS
        axes.plot(
            *zip(*sorted(points), strict=True),
            color=colour,
            marker=marker,
            markersize=7 if ours else 5,
            linewidth=3 if ours else 1.6,
            zorder=3 if ours else 2,
        )
    _label_ends(axes, series)
    figure.tight_layout()
    for suffix in (".svg", ".png"):
        figure.savefig(file.with_suffix(suffix), bbox_inches="tight")
    plt.close(figure)


def _label_ends(axes: Axes, series: dict[str, Points]) -> None:
    """Write each name to the right of its line, apart from its neighbours."""
    low, high = axes.get_ylim()
    heights = {
        name: math.log(max(points)[1] / low) / math.log(high / low)
        for name, points in series.items()
    }
    free = 1.0
    for name in sorted(heights, key=heights.__getitem__, reverse=True):
        height = min(heights[name], free)
        axes.annotate(
            name,
            (1.02, height),
            xycoords="axes fraction",
            color=_STYLES[name][0],
            weight="bold" if name == _OURS else "normal",
            va="center",
        )
        free = height - _MIN_GAP
