"""Patients: what methods lose to the optimal predictor, by samples; and where they start."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from torch import Tensor

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from benchmarks.pictures.runs import reference_of
from fedmaml.comparison.names import display
from fedmaml.computing.references import fit_references
from fedmaml.core.tasks import Task, task_at
from fedmaml.report.canvas import FAINT, GREY, INK, SERIES
from fedmaml.simulations.scenarios.patients import COVARIANCE, MEAN, Patients

SAMPLES = (1, 2, 4, 8, 20)
CLIENTS = 4000
STRATEGIES = ("fedavg", "meta_sgd", "maml")
STARTS = ("fedavg", "reptile", "maml", "meta_sgd", "fomaml")
ORACLE, REFERENCES = "oracle", ("hierarchical ridge", "ridge to the mean", "least squares")


def errors(
    models: Mapping[str, Model],
    settings: Mapping[str, Mapping[str, float]],
    samples: Sequence[int] = SAMPLES,
    clients: int = CLIENTS,
) -> dict[str, np.ndarray]:
    """Return the mean squared error of the curve, by method; each ``(counts, clients)``.

    Args:
        models: Label -> a model, which adapts to all counts as it did to that of its training.
        settings: Name of a reference -> its settings.
        samples: How many a patient has.
        clients: The first test patients.
    """
    scenario = next(iter(models.values())).config.make_scenario()
    assert isinstance(scenario, Patients)
    adapts = fit_references(scenario, settings)
    found: dict[str, list[np.ndarray]] = {}
    for count in samples:
        own = replace(scenario, shots=count)
        test = own.clients()["test"][:clients]
        tasks = own.tasks("test", test, 1, {})[0].tasks
        for name, model in models.items():
            found.setdefault(name, []).append(_errors(model.predicts_all(tasks), tasks))
        for name, adapt in adapts.items():
            single = (task_at(tasks, row) for row in range(len(test)))
            predicted = torch.stack([adapt(task.support)(task.query.x) for task in single])
            found.setdefault(name, []).append(_errors(predicted, tasks))
    return {name: np.stack(values) for name, values in found.items()}


def _errors(predicted: Tensor, tasks: Task) -> np.ndarray:
    return (predicted[..., 0] - tasks.query.y).square().mean(1).double().numpy()


def start_of(model: Model) -> np.ndarray:
    """Return (log V, k per hour) before adaptation, ``(2,)``."""
    (weight,) = model.meta["theta"].values()
    return (weight[0] / weight.new_tensor([1.0, 10.0])).double().numpy()


def draw(
    found: Mapping[str, np.ndarray],
    starts: Mapping[str, np.ndarray],
    training: np.ndarray,
    path: Path,
    samples: Sequence[int] = SAMPLES,
) -> None:
    """Draw regrets; beside them the starts, with the patients who trained ``(patients, 2)``."""
    optimum = found[ORACLE]

    def paint(regret: Axes, plane: Axes) -> None:
        regret.plot(samples, optimum.mean(1), ":", color=INK, label="error of the optimum itself")
        for place, (name, values) in enumerate(found.items()):
            if name != ORACLE:
                over = (values - optimum).mean(1)
                line = "--" if name in REFERENCES else "-"
                regret.plot(samples, over, line, color=SERIES[place], marker="osD^vP"[place % 6],
                            markersize=4, label=name)  # fmt: skip
        regret.set_xscale("log")
        regret.set_yscale("log", nonpositive="mask")
        regret.set_ylim(1e-5, 3)  # least squares on two samples is far above
        regret.yaxis.set_major_formatter("{x:g}")
        regret.set_xticks(samples, [str(count) for count in samples])
        regret.minorticks_off()
        regret.set_xlabel("samples of a new patient")
        regret.set_title("squared error over that of the optimal predictor")
        regret.legend(loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=2)
        _plane(plane, starts, training)

    save(path, (10.5, 5.2), 2, paint)


def _plane(axes: Axes, starts: Mapping[str, np.ndarray], training: np.ndarray) -> None:
    values, vectors = np.linalg.eigh(COVARIANCE.numpy())
    angle = float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0])))
    for deviations in (1, 2):
        size = 2 * deviations * np.sqrt(values)
        axes.add_patch(
            Ellipse(tuple(MEAN.tolist()), *size, angle=angle, fill=False, edgecolor=GREY)
        )
    axes.plot(*training.T, ".", color=FAINT, zorder=0, label="patients who trained")
    axes.plot(*training.mean(0), "+", color=INK, markersize=12, label="their mean")
    for place, (name, start) in enumerate(starts.items()):
        axes.plot(*start, "osD^v"[place], color=SERIES[place], markersize=7, alpha=0.8,
                  label=f"start of {name}")  # fmt: skip
    axes.set_xlabel("log V [l]")
    axes.set_ylabel("k [1/h]")
    axes.set_title("starts; rings: 1 and 2 deviations of patients")
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=2)


def picture(runs: Path, out: Path) -> None:
    """Draw regrets of strategies and references, and starts."""
    folder = runs / "patients"
    models = {name: model_of(folder / name / "seed0") for name in {*STRATEGIES, *STARTS}}
    run = folder / STRATEGIES[0] / "seed0"
    settings = {name: reference_of(run, name)["settings"] for name in (*REFERENCES, ORACLE)}
    scenario = models[STRATEGIES[0]].config.make_scenario()
    assert isinstance(scenario, Patients)
    draw(
        errors({display(name): models[name] for name in STRATEGIES}, settings),
        {display(name): start_of(models[name]) for name in STARTS},
        scenario.phi(scenario.clients()["train"]).numpy(),
        out,
    )
