"""What an arm carries: errors by seconds of motion, and what is known of three payloads in time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from benchmarks.pictures.runs import reference_of
from fedmaml.comparison.names import display
from fedmaml.computing.references import fit_references
from fedmaml.core import seeding
from fedmaml.core.tasks import Task, task_at
from fedmaml.report.canvas import INK, SERIES
from fedmaml.simulations.scenarios.payload import Payload
from fedmaml.simulations.systems import payloads
from fedmaml.simulations.systems.arm import OF_MASS

SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
ARMS = 200
STRATEGIES = ("fedavg", "meta_sgd", "maml")
ORACLE = "oracle"
REFERENCES = (ORACLE, "hierarchical ridge", "ridge to the mean", "least squares")
HEAVIEST = 3.0  # kg; payloads are U(0, 3)
MASSES = (0.5, 1.5, 2.5)  # kg, nearly


class Estimate(NamedTuple):
    """What is known of one payload in the course of a motion.

    Attributes:
        mass: The truth, in kg.
        seconds: ``(times,)``.
        mean: Of the posterior, in kg, ``(times,)``.
        deviation: Of the posterior, in kg, ``(times,)``.
    """

    mass: float
    seconds: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def mass_errors(
    models: Mapping[str, Model],
    settings: Mapping[str, Mapping[str, float]],
    seconds: Sequence[float] = SECONDS,
    arms: int = ARMS,
) -> dict[str, np.ndarray]:
    """Return the median error of the mass in kg, by method; each ``(lengths,)``.

    Args:
        models: Label -> a model, which adapts to all lengths as it did to that of its training.
        settings: Name of a reference -> its settings.
        seconds: Lengths of the motion.
        arms: The first test arms.
    """
    scenario = next(iter(models.values())).config.make_scenario()
    assert isinstance(scenario, Payload)
    adapts = fit_references(scenario, settings)
    found: dict[str, list[float]] = {}
    for length in seconds:
        own = replace(scenario, seconds=length)
        test = own.clients()["test"][:arms]
        tasks = own.tasks("test", test, 1, {})[0].tasks
        for name, model in models.items():
            found.setdefault(name, []).append(_median(model.predicts_all(tasks), tasks))
        for name, adapt in adapts.items():
            single = (task_at(tasks, row) for row in range(len(test)))
            predicted = torch.stack([adapt(task.support)(task.query.x) for task in single])
            found.setdefault(name, []).append(_median(predicted, tasks))
    return {name: np.array(values) for name, values in found.items()}


def _median(predicted: Tensor, tasks: Task) -> float:
    pairs = zip(predicted, tasks.query.y, strict=True)
    errors = [float(payloads.read_mass_error(own, y)) for own, y in pairs]
    return float(np.median(errors))


def estimate_of(scenario: Payload, arm: int, seconds: float = SECONDS[-1]) -> Estimate:
    """Return what the optimal linear estimate says of an arm's mass m as torques come in.

        m | pi ~ N(m0 + g'(pi - mean), variance - g'c),   c = Cov(pi, m),  g = Cov(pi)^-1 c

    with the posterior of the scaled parameters pi in place of pi.
    """
    mass, own = payloads.arms(scenario.seed, [arm])
    key = seeding.key(scenario.seed, "payload", "picture")
    batch = payloads.measured(key, [arm], payloads.early(seconds), own, noisy=True)
    known, x, y = payloads.prior(), batch.x[0], batch.y[0]
    variance = HEAVIEST**2 / 12
    shared = variance * OF_MASS * payloads.scales()
    gain = torch.linalg.solve(known.spread, shared)
    counts = np.unique(np.geomspace(1, len(y) // 2, 30).round().astype(int))
    means, variances = [], []
    for count in counts:
        mean, spread = known.posterior(x[: 2 * count], y[: 2 * count])
        means.append(float(HEAVIEST / 2 + gain @ (mean - known.mean)))
        variances.append(float(variance - gain @ shared + gain @ spread @ gain))
    return Estimate(
        float(mass[0]), counts / payloads.SAMPLES_A_SECOND, np.array(means), np.sqrt(variances)
    )


def arms_near(scenario: Payload, masses: Sequence[float] = MASSES) -> list[int]:
    """Return the test arms whose payloads are nearest to some masses in kg."""
    test = scenario.clients()["test"]
    own, _ = payloads.arms(scenario.seed, test)
    return [test[int((own - mass).abs().argmin())] for mass in masses]


def draw(
    errors: Mapping[str, np.ndarray],
    estimates: Sequence[Estimate],
    path: Path,
    seconds: Sequence[float] = SECONDS,
) -> None:
    """Draw errors against the length of the motion; beside them, estimates in time."""

    def paint(axes: Axes, beside: Axes) -> None:
        for place, (name, values) in enumerate(errors.items()):
            style = {"color": INK, "linestyle": ":"} if name == ORACLE else {"color": SERIES[place]}
            if name in REFERENCES and name != ORACLE:
                style["linestyle"] = "--"
            axes.plot(seconds, values, marker="osD^vP<"[place % 7], markersize=4,
                      label="known distribution" if name == ORACLE else name, **style)  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(0.02, 10)  # least squares on a tenth of a second is above
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title("median error of the mass [kg]")
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=2)
        for estimate, colour in zip(estimates, SERIES, strict=False):
            low, high = (estimate.mean + sign * estimate.deviation for sign in (-1, 1))
            beside.fill_between(estimate.seconds, low, high, color=colour, alpha=0.15, linewidth=0)
            label = f"{estimate.mass:.2f} kg"
            beside.plot(estimate.seconds, estimate.mean, color=colour, label=label)
            beside.axhline(estimate.mass, color=colour, linestyle=":", linewidth=1.2)
        beside.set_xscale("log")
        beside.set_title("estimate and its deviation [kg]; dotted: the truth")
        beside.legend(loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=3, title="payload")
        for panel, shown in ((axes, seconds), (beside, (0.02, 0.1, 0.5, 2, 5))):
            panel.set_xticks(shown, [f"{each:g}" for each in shown])
            panel.minorticks_off()
            panel.set_xlabel("motion [s]")

    save(path, (10.5, 5.0), 2, paint)


def picture(runs: Path, out: Path) -> None:
    """Draw errors of strategies and references, and three payloads."""
    folder = runs / "payload"
    run = folder / STRATEGIES[0] / "seed0"
    models = {display(name): model_of(folder / name / "seed0") for name in STRATEGIES}
    settings = {name: reference_of(run, name)["settings"] for name in REFERENCES}
    scenario = next(iter(models.values())).config.make_scenario()
    assert isinstance(scenario, Payload)
    estimates = [estimate_of(scenario, arm) for arm in arms_near(scenario)]
    draw(mass_errors(models, settings), estimates, out)
