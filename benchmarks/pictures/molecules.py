"""Assays that nobody trained on, sorted by what fine-tuned averaging reaches on them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.drawing import save
from benchmarks.pictures.runs import values_of
from fedmaml.comparison.names import display
from fedmaml.report.canvas import GREY, INK, SERIES

SORTED_BY, STRATEGIES, REFERENCE = "fedavg", ("maml", "protonet"), "random forest"


def sorted_assays(runs: Path) -> dict[str, np.ndarray]:
    """Return delta AUPRC by method, ``(assays,)``, in rising order of the first."""
    folder = runs / "molecules"
    every = {display(name): values_of(folder / name / "seed0") for name in (SORTED_BY, *STRATEGIES)}
    every[REFERENCE] = values_of(folder / SORTED_BY / "seed0", REFERENCE)
    first = every[display(SORTED_BY)]
    order = sorted(first, key=lambda client: (first[client], client))
    return {name: np.array([of[client] for client in order]) for name, of in every.items()}


def draw(found: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw the first method as a line and the others as dots; means in the legend."""

    def paint(axes: Axes) -> None:
        (first, line), *others = found.items()
        place = np.arange(1, len(line) + 1)
        every = np.stack([values for _, values in others])
        axes.vlines(place, every.min(0), every.max(0), color=GREY, linewidth=0.6, alpha=0.5)
        axes.step(place, line, where="mid", color=INK, linewidth=2,
                  label=f"{first}, fine-tuned (mean {line.mean():.3f})")  # fmt: skip
        for at, (name, values) in enumerate(others):
            axes.plot(place, values, "osD"[at], color=SERIES[at], markersize=5, alpha=0.85,
                      label=f"{name} (mean {values.mean():.3f})")  # fmt: skip
        axes.axhline(0, color=GREY, linestyle=":", linewidth=1)
        axes.set_xlabel("assay")
        axes.set_ylabel("average precision less the base rate")
        axes.legend(loc="upper left")

    save(path, (9.0, 4.2), 1, paint)


def picture(runs: Path, out: Path) -> None:
    """Draw all test assays of seed 0."""
    draw(sorted_assays(runs), out)
