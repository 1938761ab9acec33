"""Compositions that hit a wanted property, against the calls of the oracle that they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from torch.func import vmap

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from benchmarks.pictures.runs import reference_of
from benchmarks.runs import column
from fedmaml.comparison.names import display
from fedmaml.report.canvas import INK, SERIES
from fedmaml.simulations.scenarios.inverse_design import InverseDesign
from fedmaml.simulations.systems import alloys

STEPS = (0, 1, 2, 3, 5, 10, 20)
A_STEP = 16
"""Calls of the oracle, in recipes."""
STRATEGIES = ("fedavg", "reptile", "maml", "meta_sgd")
SAMPLES = 192
REFERENCES = {"pool": 0, "Gaussian process on the pool": 80, "latent descent": 5 * SAMPLES}
"""Name -> calls for one client."""


class Hits(NamedTuple):
    """What compositions are worth, as means over test clients, all ``(points,)``."""

    calls: np.ndarray
    hit: np.ndarray
    diversity: np.ndarray


def hits_of(model: Model, steps: Sequence[int]) -> Hits:
    """Return the hits after some steps, each with latent draws of its own."""
    scenario = model.config.make_scenario()
    assert isinstance(scenario, InverseDesign)
    tasks = model.tasks_of(replace(scenario, shots=A_STEP * max(steps)))
    found = []
    for count in steps:
        logits = model.predicts_all(tasks, count)
        found.append(
            [float(vmap(of)(logits, tasks.query.y).mean()) for of in (alloys.hit, alloys.diversity)]
        )
    return Hits(A_STEP * np.array(steps), *np.array(found).T)


def reference_hits(run: Path, name: str) -> Hits:
    """Return the one point of a reference."""
    rows = reference_of(run, name)["clients"]
    values = [np.array([column(rows, each).mean()]) for each in ("hit", "diversity")]
    return Hits(np.array([REFERENCES[name]]), *values)


def draw(found: Mapping[str, Hits], path: Path) -> None:
    """Draw hits against calls; the area of a dot is the diversity."""

    def size(diversity: float) -> float:
        return 400 * diversity

    def paint(axes: Axes) -> None:
        for place, (name, hits) in enumerate(found.items()):
            alone = len(hits.calls) == 1
            colour = INK if alone else SERIES[place]
            if alone:
                axes.annotate(name, (hits.calls[0], hits.hit[0]), xytext=(12, -14), ha="left",
                              textcoords="offset points")  # fmt: skip
            else:
                axes.plot(hits.calls, hits.hit, color=colour, label=name)
            axes.scatter(hits.calls, hits.hit, [size(each) for each in hits.diversity],
                         color=colour, alpha=0.6, linewidths=0)  # fmt: skip
        for diversity in (0.1, 0.3, 0.6):
            axes.scatter([], [], size(diversity), color=INK, alpha=0.6, linewidths=0,
                         label=f"diversity {diversity}")  # fmt: skip
        axes.set_xscale("symlog", linthresh=A_STEP)
        ticks = (0, 16, 32, 80, 160, 320, 960)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(-3, 5500)
        axes.set_ylim(0, 1.1)
        axes.set_xlabel("calls of the oracle for a new client")
        axes.set_ylabel("share of samples that hit")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))

    save(path, (9.5, 4.4), 1, paint)


def picture(runs: Path, out: Path) -> None:
    """Draw strategies by steps, and references."""
    folder = runs / "inverse_design"
    models = {name: model_of(folder / name / "seed0") for name in STRATEGIES}
    found = {display(name): hits_of(model, STEPS) for name, model in models.items()}
    run = folder / STRATEGIES[0] / "seed0"
    draw(found | {name: reference_hits(run, name) for name in REFERENCES}, out)
