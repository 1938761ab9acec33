"""Assays that nobody trained on, sorted by fine-tuned averaging; and methods by the support."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from benchmarks.pictures.runs import reference_of, values_of
from fedmaml.comparison.names import display
from fedmaml.computing.references import fit_references
from fedmaml.core.tasks import task_at
from fedmaml.report.canvas import GREY, INK, SERIES
from fedmaml.simulations.scenario import totals_of
from fedmaml.simulations.scenarios.molecules import Molecules, delta_auprc

SORTED_BY, STRATEGIES, REFERENCE = "fedavg", ("maml", "protonet"), "random forest"
SIZES = (16, 32, 64, 128)  # molecules of a support; two test assays have too few for the last


def sorted_assays(runs: Path) -> dict[str, np.ndarray]:
    """Return delta AUPRC by method, ``(assays,)``, in rising order of the first."""
    folder = runs / "molecules"
    every = {display(name): values_of(folder / name / "seed0") for name in (SORTED_BY, *STRATEGIES)}
    every[REFERENCE] = values_of(folder / SORTED_BY / "seed0", REFERENCE)
    first = every[display(SORTED_BY)]
    order = sorted(first, key=lambda client: (first[client], client))
    return {name: np.array([of[client] for client in order]) for name, of in every.items()}


def by_support(
    models: Mapping[str, Model],
    settings: Mapping[str, Mapping[str, Any]],
    sizes: Sequence[int] = SIZES,
) -> dict[str, np.ndarray]:
    """Return the mean delta AUPRC of the test assays by method, ``(sizes,)``.

    Args:
        models: Label -> a model; it adapts to every size as it did to that of its training.
        settings: Name of a reference -> its settings.
        sizes: Molecules of a support.
    """
    scenario = next(iter(models.values())).config.make_scenario()
    assert isinstance(scenario, Molecules)
    totals = totals_of(scenario, scenario.clients()["train"])  # inputs are scaled as in training
    adapts = fit_references(scenario, settings)
    found: dict[str, list[float]] = {}
    for size in sizes:
        own = replace(scenario, shots=size)
        groups = own.tasks("test", own.clients()["test"], 0, totals)
        tasks = [task_at(group.tasks, row) for group in groups for row in range(len(group.clients))]
        predicted = {label: [model.predicts(task) for task in tasks]
                     for label, model in models.items()}  # fmt: skip
        for label, adapt in adapts.items():
            predicted[label] = [adapt(task.support)(task.query.x) for task in tasks]
        for label, scores in predicted.items():
            pairs = zip(scores, tasks, strict=True)
            values = [float(delta_auprc(score, task.query.y)) for score, task in pairs]
            found.setdefault(label, []).append(float(np.mean(values)))
    return {label: np.array(values) for label, values in found.items()}


def draw(
    found: Mapping[str, np.ndarray],
    grown: Mapping[str, np.ndarray],
    path: Path,
    sizes: Sequence[int] = SIZES,
) -> None:
    """Draw the first method as a line and the others as dots; beside it, means by support."""

    def paint(axes: Axes, beside: Axes) -> None:
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
        colours = [INK, *SERIES]
        for at, (name, values) in enumerate(grown.items()):
            beside.plot(sizes, values, color=colours[at], marker="^osD"[at], markersize=5,
                        label=name)  # fmt: skip
        beside.set_xscale("log", base=2)
        beside.set_xticks(sizes, [str(size) for size in sizes])
        beside.minorticks_off()
        beside.set_ylim(bottom=0)
        beside.set_xlabel("molecules of the support")
        beside.set_title("mean over assays")
        beside.legend(loc="lower right")

    save(path, (12.0, 4.2), 2, paint)


def picture(runs: Path, out: Path) -> None:
    """Draw all test assays of seed 0."""
    folder = runs / "molecules"
    models = {display(name): model_of(folder / name / "seed0") for name in (SORTED_BY, *STRATEGIES)}
    forest = reference_of(folder / SORTED_BY / "seed0", REFERENCE)["settings"]
    draw(sorted_assays(runs), by_support(models, {REFERENCE: forest}), out)
