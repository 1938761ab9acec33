"""Metrics of several cells at stages of adaptation: a heat map of cells and stages.

A stage is a number of support examples or of adaptation steps. In a stream of classes, with a cell
for each class, this is class by time: what is learned when, and what is lost.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from fedmaml.comparison.names import metric_name
from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.report import series, words
from fedmaml.report.canvas import Drawing, file_name, size
from fedmaml.report.reading import Material, Run

MIN_CELLS, MAX_CELLS = 4, 24
MAX_STAGES = 11
"""Two digits each in a column of 3.25 inches."""
_COLUMN = re.compile(r"([^/:]+)/([^:]+):(before|after|(?:after|shots)@\d+)")
_AXES = {"shots": "support examples (shots)", "steps": "gradient steps of the adaptation"}
_PREFIX = {"shots": "shots@", "steps": "after@"}
_DARK, _LIGHT = "#111111", "#fdfdfd"  # on coloured cells, whatever the colour of the page


@dataclass(frozen=True)
class Map:
    """Means over clients and seeds of a metric's cells.

    Attributes:
        metric: Its name.
        over: "shots" or "steps".
        cells: Names, from top to bottom.
        of: How many cells the metric has.
        stages: What the columns are called.
        values: Strategy -> means, shape ``(cells, stages)``; NaN where undefined.
    """

    metric: str
    over: str
    cells: tuple[str, ...]
    of: int
    stages: tuple[str, ...]
    values: Mapping[str, np.ndarray]


def drawings(material: Material) -> Iterator[Drawing]:
    """Draw every metric of at least four cells that was evaluated at several stages."""
    for found in maps(material):
        yield _drawing(found)


def maps(material: Material) -> Iterator[Map]:
    """Yield cells of FedAvg and the best meta-learning strategy; else of the first two lines."""
    best = series.best_meta_strategy(material)
    names = [REFERENCE, best] if best else [*material.runs][:2]
    shown = {name: material.runs[name] for name in names}
    rows = [row for runs in shown.values() for row in runs[0].clients[:1]]
    matches = [match for row in rows for column in row if (match := _COLUMN.fullmatch(column))]
    cells: dict[str, dict[str, None]] = {}
    for match in matches:
        cells.setdefault(match[1], {})[match[2]] = None
    for metric, members in cells.items():
        stages = {match[3] for match in matches if match[1] == metric}
        for over in ("shots", "steps"):
            chosen = _stages(stages, over)
            if len(members) >= MIN_CELLS and len(chosen) > 2:
                kept = _evenly([*members], MAX_CELLS)
                values = {name: _means(runs, metric, kept, chosen) for name, runs in shown.items()}
                if not any(np.isfinite(one).any() for one in values.values()):
                    continue
                titles = tuple(_title(stage, over) for stage in chosen)
                yield Map(metric, over, tuple(kept), len(members), titles, values)


def _stages(there: set[str], over: str) -> list[str]:
    """Return columns from nothing to everything; at least one between them, else none."""
    prefix = _PREFIX[over]
    counts = sorted(int(stage.partition("@")[2]) for stage in there if stage.startswith(prefix))
    if not counts:
        return []
    ends = [[stage] if stage in there else [] for stage in ("before", "after")]
    return _evenly([*ends[0], *(f"{prefix}{count}" for count in counts), *ends[1]], MAX_STAGES)


def _title(stage: str, over: str) -> str:
    if stage == "after":
        return "all" if over == "shots" else "own"
    return "0" if stage == "before" else stage.partition("@")[2]


def _evenly(everything: Sequence[str], most: int) -> list[str]:
    """Return at most so many, the first and the last among them."""
    places = np.unique(np.linspace(0, len(everything) - 1, most).round().astype(int))
    return [everything[place] for place in places]


def _means(
    runs: Sequence[Run], metric: str, cells: Sequence[str], stages: Sequence[str]
) -> np.ndarray:
    def mean(column: str) -> float:
        seeds = [np.array([series.number_of(row.get(column)) for row in run.own_clients])
                 for run in runs]  # fmt: skip
        known = [np.mean(seed[np.isfinite(seed)]) for seed in seeds if np.isfinite(seed).any()]
        return float(np.mean(known)) if known else np.nan

    return np.array([[mean(f"{metric}/{cell}:{stage}") for stage in stages] for cell in cells])


def _drawing(found: Map) -> Drawing:
    count = len(found.cells)
    block = count + 1.4  # rows from one strategy to the next

    def paint(axes: Axes) -> None:
        everything = np.concatenate([*found.values.values()])
        low, high = np.nanmin(everything), np.nanmax(everything)
        colours = mpl.colormaps["cividis"]
        ticks: dict[float, str] = {}
        for panel, (name, values) in enumerate(found.values.items()):
            top = panel * block
            axes.text(0, top - 0.15, words.shown(name), va="bottom", fontsize=size(9.5))
            for row, cell in enumerate(found.cells):
                ticks[top + row + 0.5] = cell
                for column, value in enumerate(values[row]):
                    if np.isfinite(value):
                        share = float((value - low) / (high - low)) if high > low else 0.5
                        axes.add_patch(Rectangle((column, top + row), 1, 1, linewidth=0,
                                                 facecolor=colours(share)))  # fmt: skip
                        axes.text(column + 0.5, top + row + 0.5, _digits(value, high), ha="center",
                                  va="center_baseline", fontsize=size(7.5),
                                  color=_DARK if share > 0.5 else _LIGHT)  # fmt: skip
        axes.set_yticks([*ticks], [*ticks.values()])
        axes.set_xticks(np.arange(len(found.stages)) + 0.5, found.stages)
        axes.set_xlim(0, len(found.stages))
        axes.set_ylim(len(found.values) * block - 1.4, -1.2)
        axes.tick_params(length=0)
        axes.tick_params(axis="x", labelsize=size(8.5))
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.set_xlabel(_AXES[found.over])
        axes.set_ylabel(metric_name(found.metric))

    title = f"{words.capital(metric_name(found.metric))}, each cell against {found.over}"
    if found.of > count:
        title += f"; {count} of {found.of} cells are shown"
    return Drawing(
        file_name("cells", found.metric, found.over), "cells", title,
        words.cells({name: (values[:, 0].tolist(), values[:, -1].tolist())
                     for name, values in found.values.items()}, found.cells, found.stages),
        paint, ("strategy", "cell", *found.stages),
        tuple(
            (name, cell, *map(float, values[row]))
            for name, values in found.values.items()
            for row, cell in enumerate(found.cells)
        ),
        height=0.55 + 0.17 * (len(found.values) * block - 0.2),
    )  # fmt: skip


def _digits(value: float, largest: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(largest) <= 1 else f"{value:.3g}"
