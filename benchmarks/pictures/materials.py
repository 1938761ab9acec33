"""Formation energies of a family that nobody trained on, before and after ten of its compounds."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from fedmaml.report.canvas import INK, SERIES
from fedmaml.simulations.scenario import totals_of


class Parity(NamedTuple):
    """Energies in eV of all query compounds of all test clients, both ``(compounds,)``."""

    truth: np.ndarray
    predicted: np.ndarray

    @property
    def error(self) -> float:
        """Mean absolute error in eV."""
        return float(np.abs(self.predicted - self.truth).mean())


def parity_of(model: Model, steps: int | None = None) -> Parity:
    """Return what a model predicts after some steps (None: its own)."""
    scenario = model.config.make_scenario()
    count, total, squares = totals_of(scenario, scenario.clients()["train"])["energies"].tolist()
    mean = total / count
    deviation = (squares / count - mean**2) ** 0.5
    tasks = model.tasks_of(scenario)
    both = tasks.query.y, model.predicts_all(tasks, steps)[..., 0]
    return Parity(*((mean + deviation * each.double()).flatten().numpy() for each in both))


def draw(found: Mapping[str, Parity], path: Path) -> None:
    """Draw predicted against true energies, one panel for each."""
    truth = next(iter(found.values())).truth
    low, high = float(truth.min()) - 0.5, float(truth.max()) + 0.5

    def paint(*panels: Axes) -> None:
        for axes, (title, parity) in zip(panels, found.items(), strict=True):
            axes.plot(
                parity.truth, parity.predicted, ".", color=SERIES[0], markersize=3, alpha=0.5,
                rasterized=True,  # thousands of dots
            )  # fmt: skip
            axes.plot([low, high], [low, high], color=INK, linewidth=1)
            axes.set_xlim(low, high)
            axes.set_ylim(low, high)
            axes.set_aspect("equal")
            axes.set_title(f"{title}: {parity.error:.2f} eV off")
            axes.set_xlabel("computed [eV]")
        panels[0].set_ylabel("predicted [eV]")

    save(path, (11.0, 4.2), len(found), paint, sharey=True)


def picture(runs: Path, out: Path) -> None:
    """Draw FedAvg before and after fine-tuning, and the ridge head."""
    folder = runs / "materials"
    fedavg, ridge = (model_of(folder / name / "seed0") for name in ("fedavg", "ridge_head"))
    draw(
        {
            "FedAvg, before": parity_of(fedavg, 0),
            "FedAvg, after": parity_of(fedavg),
            "Ridge head, after": parity_of(ridge),
        },
        out,
    )
