"""Phase transformations: curves from a few early points, simulated and measured ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from benchmarks.pictures.runs import finite_mean, reference_of, values_of
from fedmaml.comparison.names import display
from fedmaml.computing.references import fit_references
from fedmaml.core.tasks import task_at
from fedmaml.report.canvas import FAINT, GREY, INK, SERIES
from fedmaml.simulations.reference import Adapt
from fedmaml.simulations.scenarios.jmak import CURVE, GRID, Jmak

STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
STRATEGIES = ("fedavg", "maml")
MEASURED = ("fedavg", "meta_sgd")
NEAREST = "nearest training curves"


class Curves(NamedTuple):
    """A client's points and curves.

    Attributes:
        title: Of its panel.
        support: x and y of the points, ``(2, points)``.
        truth: y at the query's x.
        predicted: Label -> y at the query's x.
    """

    title: str
    support: np.ndarray
    truth: np.ndarray
    predicted: Mapping[str, np.ndarray]


def curves_of(models: Mapping[str, Model], client: int, references: Mapping[str, Adapt]) -> Curves:
    """Return what models and a reference predict for a test client.

    Args:
        models: Label -> model; all of one scenario.
        client: Its number.
        references: Name -> reference, fitted.
    """
    first = next(iter(models.values()))
    scenario = first.config.make_scenario()
    task = task_at(first.tasks_of(scenario, [client]), 0)
    predicted = {name: adapt(task.support)(task.query.x) for name, adapt in references.items()}
    predicted |= {label: model.predicts(task) for label, model in models.items()}
    found = {label: values[:, 0].double().numpy() for label, values in predicted.items()}
    support = torch.stack([task.support.x[:, 0], task.support.y]).double().numpy()
    title = ", ".join(scenario.groups(client).values())
    return Curves(title, support, task.query.y.double().numpy(), found)


def errors_by_steps(model: Model, steps: Sequence[int]) -> np.ndarray:
    """Return the mean over test clients of the curve's RMSE after some steps, ``(counts,)``."""
    tasks = model.tasks_of(model.config.make_scenario())
    found = []
    for count in steps:
        away = model.predicts_all(tasks, count)[..., 0] - tasks.query.y
        found.append(float(away.square().mean(1).sqrt().mean()))
    return np.array(found)


def spread_clients(run: Path, shares: Sequence[float] = (0.25, 0.5, 0.9)) -> list[int]:
    """Return test clients whose metric after adaptation is at some quantiles."""
    values = values_of(run)
    ranked = sorted(values, key=lambda client: (values[client], client))
    return [ranked[round(share * (len(ranked) - 1))] for share in shares]


def draw(
    clients: Sequence[Curves],
    errors: Mapping[str, np.ndarray],
    lines: Mapping[str, float],
    path: Path,
) -> None:
    """Draw clients; beside them errors against steps, with references as horizontal lines."""

    def paint(*panels: Axes) -> None:
        for axes, client in zip(panels[:-1], clients, strict=True):
            _draw_client(axes, CURVE.numpy(), client)
            axes.set_ylim(-0.05, 1.1)
            axes.set_xlabel("time")
        panels[0].legend(loc="lower right")
        steps = panels[-1]
        for (label, values), colour in zip(errors.items(), SERIES[1:], strict=False):
            steps.plot(STEPS, values, color=colour, label=label)
        for (label, value), style in zip(lines.items(), ("--", ":"), strict=False):
            steps.axhline(value, color=INK, linestyle=style, linewidth=1.2, label=label)
        steps.set_xscale("symlog", linthresh=1)
        steps.set_xlim(-0.1, 1.1 * STEPS[-1])
        steps.set_xticks((0, 1, 10, 100, 1000), ("0", "1", "10", "100", "1000"))
        steps.minorticks_off()
        steps.set_ylim(bottom=0)
        steps.set_xlabel("steps of adaptation")
        steps.set_title("mean error of all test clients")
        steps.legend()

    save(path, (10.0, 7.0), (2, 2), paint)


def _draw_client(axes: Axes, x: np.ndarray, client: Curves) -> None:
    axes.plot(x, client.truth, color=GREY, linewidth=4, alpha=0.35, label="truth")
    for (label, values), colour in zip(client.predicted.items(), SERIES, strict=False):
        axes.plot(x, values, color=colour, label=label)
    axes.plot(*client.support, "o", color=INK, markersize=5, label="support", zorder=4)
    axes.set_title(client.title)


def draw_measured(archive: Sequence[np.ndarray], clients: Sequence[Curves], path: Path) -> None:
    """Draw the curves of the archive, and over them new runs with their predictions."""
    kelvin = 500 + 10 * GRID.numpy()

    def paint(*panels: Axes) -> None:
        for axes, client in zip(panels, clients, strict=True):
            for curve in archive:
                axes.plot(kelvin, curve, color=FAINT, linewidth=0.9, zorder=0)
            early = np.stack([500 + 10 * client.support[0], client.support[1]])
            _draw_client(axes, kelvin, client._replace(support=early))
            axes.set_xlabel("temperature [K]")
        panels[0].set_ylabel("converted share")
        panels[0].legend(loc="upper left")

    save(path, (10.0, 4.4), len(clients), paint, sharey=True)


def picture(runs: Path, out: Path) -> None:
    """Draw three simulated transformations: an easy one, the median, a hard one for FedAvg."""
    folder = runs / "jmak"
    run = folder / STRATEGIES[0] / "seed0"
    models = {display(name): model_of(folder / name / "seed0") for name in STRATEGIES}
    scenario = next(iter(models.values())).config.make_scenario()
    references = fit_references(scenario, {"MAP": reference_of(run, "MAP")["settings"]})
    names = ("a quarter is easier for FedAvg", "the median for FedAvg", "a tenth is harder")
    found = [
        curves_of(models, client, references)._replace(title=name)
        for name, client in zip(names, spread_clients(run), strict=True)
    ]
    errors = {label: errors_by_steps(model, STEPS) for label, model in models.items()}
    lines = {name: finite_mean(values_of(run, name)) for name in ("MAP", "hierarchical Bayes")}
    draw(found, errors, lines, out)


def picture_measured(runs: Path, out: Path) -> None:
    """Draw a new run of either material, that with Meta-SGD's median error."""
    folder = runs / "jmak_measured"
    models = {display(name): model_of(folder / name / "seed0") for name in MEASURED}
    run = folder / MEASURED[-1] / "seed0"
    scenario = next(iter(models.values())).config.make_scenario()
    assert isinstance(scenario, Jmak)
    references = fit_references(scenario, {NEAREST: reference_of(run, NEAREST)["settings"]})
    values, by_material = values_of(run), dict[str, list[int]]()
    for client in sorted(values, key=lambda each: (values[each], each)):
        by_material.setdefault(scenario.groups(client)["material"], []).append(client)
    chosen = [clients[(len(clients) - 1) // 2] for _, clients in sorted(by_material.items())]
    (training,) = scenario.tasks("train", scenario.clients()["train"], 1, {})
    draw_measured(
        list(training.tasks.query.y.numpy()),
        [curves_of(models, client, references) for client in chosen],
        out,
    )
