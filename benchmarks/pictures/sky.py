"""Plates: accuracy by the number of known objects, on plates of one class mostly and on others."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from benchmarks.pictures.runs import reference_of
from fedmaml.comparison.names import display
from fedmaml.computing.references import fit_references
from fedmaml.core.tasks import Task, cast, part_of, unstack
from fedmaml.report.canvas import SERIES
from fedmaml.simulations.scenario import totals_of

SHOTS = (1, 2, 4, 8, 15)
STRATEGIES = ("fedavg", "maml")
REFERENCE = "pooled forest, own class shares"


def plates_of(model: Model) -> dict[int, Task]:
    """Return the test plates, by client."""
    scenario = model.config.make_scenario()
    clients = scenario.clients()["test"]
    totals = totals_of(scenario, scenario.clients()["train"])
    groups = scenario.tasks("test", clients, 1, totals)
    every = {client: task for group in groups for client, task in unstack(group).items()}
    return {client: cast(every[client], scenario.problem().dtype) for client in clients}


def mix_of(task: Task) -> float:
    """Return the share of a plate's commonest class."""
    return float(task.query.y.bincount().max()) / len(task.query.y)


def accuracies(
    models: Mapping[str, Model], references: Mapping[str, Mapping[str, float]], shots: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return the accuracy of methods that know the first objects of a plate.

    Args:
        models: Label -> model; all of one scenario.
        references: Name -> settings.
        shots: How many objects are known.

    Returns:
        Label -> ``(counts, plates)``.
    """
    first = next(iter(models.values()))
    scenario, plates = first.config.make_scenario(), plates_of(first)
    adapts = fit_references(scenario, references)
    found: dict[str, list[list[float]]] = {}
    for count in shots:
        for task in plates.values():
            few = Task(part_of(task.support, 0, count), task.query)
            logits = {label: model.predicts(few) for label, model in models.items()}
            logits |= {name: adapt(few.support)(few.query.x) for name, adapt in adapts.items()}
            for label, values in logits.items():
                found.setdefault(label, []).append(_accuracy(values, task.query.y))
    return {
        label: np.array(values).reshape(len(shots), len(plates)) for label, values in found.items()
    }


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(-1) == y).to(torch.float64).mean())


def draw(found: Mapping[str, np.ndarray], mixes: np.ndarray, path: Path) -> None:
    """Draw means over plates, one panel for each half of them by mix."""
    middle = float(np.median(mixes))

    def paint(*panels: Axes) -> None:
        for axes, rows, where in zip(
            panels, (mixes <= middle, mixes > middle), ("up to", "above"), strict=True
        ):
            for place, (label, values) in enumerate(found.items()):
                mean = values[:, rows].mean(1)
                error = values[:, rows].std(1) / np.sqrt(rows.sum())
                at = np.array(SHOTS) * (1 + 0.04 * (place - 1))
                axes.errorbar(at, mean, error, color=SERIES[place], marker="osD"[place],
                              markersize=4, label=label)  # fmt: skip
            axes.set_xscale("log")
            axes.set_xticks(SHOTS, [str(count) for count in SHOTS])
            axes.minorticks_off()
            axes.set_xlabel("known objects of the plate")
            axes.set_title(f"{rows.sum()} plates, {where} {middle:.0%} of one class")
        panels[0].set_ylabel("accuracy")
        panels[0].legend(loc="lower right")

    save(path, (9.5, 4.0), 2, paint, sharey=True)


def picture(runs: Path, out: Path) -> None:
    """Draw FedAvg, MAML and the forest that weighs its votes."""
    folder = runs / "sky"
    models = {display(name): model_of(folder / name / "seed0") for name in STRATEGIES}
    settings = reference_of(folder / STRATEGIES[0] / "seed0", REFERENCE)["settings"]
    mixes = np.array([mix_of(task) for task in plates_of(next(iter(models.values()))).values()])
    draw(accuracies(models, {REFERENCE: settings}, SHOTS), mixes, out)
