"""Trials that a network and a Gaussian process choose for one material, on its surface."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from benchmarks.pictures.runs import median_client
from benchmarks.synthesis import FURTHER, by_model, by_processes
from fedmaml.comparison.names import display
from fedmaml.core import seeding
from fedmaml.core.tasks import Batch, task_at
from fedmaml.report.canvas import GREY, INK, SERIES
from fedmaml.simulations.scenarios.synthesis import Synthesis
from fedmaml.simulations.systems.trials import Policy
from fedmaml.simulations.systems.yields import NOISE, candidates

STRATEGY, PROCESS = "fedavg", "Gaussian process, archive"
_POINTS = 61  # of a slice, along each side
_OFF = 0.15  # from a slice, beyond which a trial is drawn faint


class Trials(NamedTuple):
    """Trials of one material.

    Attributes:
        conditions: Temperature, time and ratio of the trials, ``(trials, 3)``.
        yields: Without noise, over the height, ``(trials,)``.
    """

    conditions: np.ndarray
    yields: np.ndarray


class Surface(NamedTuple):
    """Yields of one material over temperature and time, at its best ratio.

    Attributes:
        yields: Over the height, ``(times, temperatures)``; both from 0 to 1.
        best: Conditions, ``(3,)``.
        floor: Regret of the best candidate.
    """

    yields: np.ndarray
    best: np.ndarray
    floor: float


def trials_of(scenario: Synthesis, client: int, policy: Policy) -> Trials:
    """Return a test material's random trials and those that a policy chooses.

    They are those of `systems.trials.regrets`, where the material is asked for alone.
    """
    task = task_at(scenario.tasks("test", [client], 1, {})[0].tasks, 0)
    nature = scenario.materials([client])
    key = seeding.key(scenario.seed, "synthesis", "chosen")
    noise = NOISE * seeding.normal(key, [client], FURTHER)[0]
    support, conditions = task.support, task.support.x / 3 + 0.5
    for trial in range(FURTHER):
        chosen = int(policy(support)(task.query.x[:-1]).argmax())
        x, y = task.query.x[chosen][None], (task.query.y[chosen] + noise[trial])[None]
        support = Batch(torch.cat([support.x, x]), torch.cat([support.y, y]))
        conditions = torch.cat([conditions, candidates()[0, chosen][None]])
    return Trials(conditions.numpy(), (nature.yields(conditions[None])[0] / nature.height).numpy())


def surface_of(scenario: Synthesis, client: int) -> Surface:
    """Return the surface of a material."""
    nature = scenario.materials([client])
    side = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    time, temperature = torch.meshgrid(side, side, indexing="ij")
    ratio = nature.best[0, 2].expand_as(time)
    grid = torch.stack([temperature, time, ratio], -1).flatten(0, 1)[None]
    yields = (nature.yields(grid)[0] / nature.height).view(_POINTS, _POINTS)
    floor = 1 - float((nature.yields(candidates())[0] / nature.height).max())
    return Surface(yields.numpy(), nature.best[0].numpy(), floor)


def draw(surface: Surface, found: Mapping[str, Trials], path: Path) -> None:
    """Draw a slice for each method, its trials numbered; then regrets, the floor dotted."""

    def paint(*panels: Axes) -> None:
        side = np.linspace(0, 1, _POINTS)
        regret = panels[-1]
        for place, (name, trials) in enumerate(found.items()):
            axes = panels[place]
            axes.contourf(side, side, surface.yields, 9, cmap="Greys", alpha=0.35)
            axes.plot(*surface.best[:2], "*", color=INK, markersize=13)
            first = len(trials.yields) - FURTHER
            for where, numbers in numbers_at(trials).items():
                chosen = numbers[-1] > first
                axes.text(*where[:2], spelled(numbers), ha="center", va="center", fontsize=9,
                          color=SERIES[place] if chosen else INK,
                          fontweight="bold" if chosen else "normal",
                          alpha=1 if abs(where[2] - surface.best[2]) < _OFF else 0.45)  # fmt: skip
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_aspect("equal")
            axes.set_xlabel("temperature")
            axes.set_title(name)
            best = np.maximum.accumulate(trials.yields)[first - 1 :]
            at = np.arange(first, first + len(best))
            regret.plot(at, 1 - best, color=SERIES[place], marker="os"[place], label=name)
        panels[0].set_ylabel("time")
        regret.axhline(surface.floor, color=GREY, linestyle=":", label="best candidate")
        regret.set_ylim(bottom=0)
        regret.set_xlabel("trials")
        regret.set_title("regret of the best so far")
        regret.legend(loc="center right", bbox_to_anchor=(1.0, 0.65))

    save(path, (12.0, 4.2), len(found) + 1, paint)


def numbers_at(trials: Trials) -> dict[tuple[float, ...], list[int]]:
    """Return the numbers of the trials at each place, from 1."""
    found: dict[tuple[float, ...], list[int]] = {}
    for number, where in enumerate(trials.conditions.tolist(), 1):
        found.setdefault(tuple(where), []).append(number)
    return found


def spelled(numbers: Sequence[int]) -> str:
    """Return rising numbers in short: "7-10, 12"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def policies_of(model: Model) -> dict[str, Policy]:
    """Return the policies of a model and of the process with an archive."""
    scenario = model.config.make_scenario()
    assert isinstance(scenario, Synthesis)
    return {display(STRATEGY): by_model(model), PROCESS: by_processes(scenario)[PROCESS]}


def picture(runs: Path, out: Path) -> None:
    """Draw the material whose surface FedAvg predicts as well as the median one."""
    run = runs / "synthesis" / STRATEGY / "seed0"
    model, client = model_of(run), median_client(run)
    scenario = model.config.make_scenario()
    assert isinstance(scenario, Synthesis)
    found = {
        name: trials_of(scenario, client, policy) for name, policy in policies_of(model).items()
    }
    draw(surface_of(scenario, client), found, out)
