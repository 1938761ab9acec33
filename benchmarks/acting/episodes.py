"""What agents did, as numbers: paths, angles, rewards by pull, returns by week."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.acting.models import Model
from fedmaml.core import seeding
from fedmaml.core.tasks import Batch, Task, part_of, task_at
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.environments import bandit_rules
from fedmaml.simulations.environments.one_link import OneLinkArm
from fedmaml.simulations.scenarios import Bandits, HalfCircle, Navigation

SEED = 0
"""Of everything that is drawn for pictures."""


class Band(NamedTuple):
    """A curve with a 95 % interval at each of its points, all ``(points,)``."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


# --- navigation -------------------------------------------------------------------------------


class Paths(NamedTuple):
    """Episodes of one client in the plane.

    Attributes:
        goal: ``(2,)``.
        before: Places after each step, ``(episodes, steps, 2)``; NaN after the end.
        after: The same after one step of adaptation.
    """

    goal: np.ndarray
    before: np.ndarray
    after: np.ndarray


def paths_of(model: Model, clients: int = 4, episodes: int = 5) -> list[Paths]:
    """Return episodes of the first test clients whose goals lie in different quadrants."""
    scenario = model.config.make_scenario()
    assert isinstance(scenario, Navigation)
    test = scenario.clients()["test"]
    quadrants: dict[tuple[bool, ...], int] = {}
    for client, goal in zip(test, scenario.goals(test), strict=True):
        if float(goal.abs().min()) > 0.15:
            quadrants.setdefault(tuple((goal > 0).tolist()), client)
    found = []
    for client in sorted(quadrants.values())[:clients]:
        task = task_at(scenario.tasks("test", [client], 1, {})[0].tasks, 0)
        stages = [_places(model.plays(task, steps), episodes) for steps in (0, 1)]
        found.append(Paths(scenario.goals([client])[0].numpy(), *stages))
    return found


def _places(played: Mapping[str, Tensor], episodes: int) -> np.ndarray:
    places = torch.where(played["alive"][..., None] > 0, played["states"], torch.nan)
    return places[:episodes].double().numpy()


# --- half circle ------------------------------------------------------------------------------


class Search(NamedTuple):
    """Episodes of one client, each played by what it saw in those before.

    Attributes:
        goal: ``(2,)``.
        places: After each step, ``(episodes, steps, 2)``.
    """

    goal: np.ndarray
    places: np.ndarray


def searches_of(model: Model, clients: int = 4) -> list[Search]:
    """Return the episodes of test clients whose goals are spread over the arc, from the right."""
    scenario = model.config.make_scenario()
    assert isinstance(scenario, HalfCircle)
    test = scenario.clients()["test"]
    from_right = scenario.goals(test)[:, 0].argsort(descending=True).tolist()
    spread = [from_right[(2 * place + 1) * len(test) // (2 * clients)] for place in range(clients)]
    chosen = [test[at] for at in spread]
    tasks, found = model.tasks_of(scenario, chosen), []
    for row, client in enumerate(chosen):
        support, episodes = task_at(tasks, row).support, []
        for played in range(len(support.y)):
            adapted = model.adapt(part_of(support, 0, played))
            episodes.append(adapted(part_of(support, played, played + 1).x)["states"][0])
        goal = scenario.goals([client])[0].numpy()
        found.append(Search(goal, torch.stack(episodes).double().numpy()))
    return found


# --- arm --------------------------------------------------------------------------------------

MASSES = {"light": 0.3, "medium": 1.5, "heavy": 2.7}
"""Payloads in kg."""
TARGET, FRICTION = 0.8, 0.6


def angles_of(model: Model) -> dict[str, np.ndarray]:
    """Return, for each payload, the angle in rad before and after adapting, ``(2, steps)``.

    All arms have the same friction, target and noise; each adapts on three episodes of its own.
    """
    return {
        name: np.stack(
            [model.plays(_arm(mass), steps)["angle"][0].double().numpy() for steps in (0, None)]
        )
        for name, mass in MASSES.items()
    }


def _arm(mass: float) -> Task:
    sides = []
    for side, targets in (("support", (-0.9, 0.2, 1.0)), ("query", (TARGET,))):
        target = torch.tensor(targets, dtype=torch.float64)
        noise = seeding.normal(seeding.key(SEED, side), [0], len(target), OneLinkArm().horizon, 1)
        x = {
            "mass": torch.full_like(target, mass),
            "friction": torch.full_like(target, FRICTION),
            "target": target,
            "noise": noise[0],
        }
        sides.append(Batch(x, target))
    return Task(*sides)


# --- bandits ----------------------------------------------------------------------------------


def rewards_by_pull(models: Mapping[str, Model], trials: int = 20_000) -> dict[str, np.ndarray]:
    """Return the mean reward of each pull, ``(pulls,)``, of networks and of rules.

    All play the same bandits with the same luck. The models' scenarios are equal up to the network.
    """
    scenario = next(iter(models.values())).config.make_scenario()
    assert isinstance(scenario, Bandits)
    batch = bandits_of(scenario.pulls, scenario.arms, trials, greedy=scenario.greedy)
    found = {name: model.plays(Task(batch, batch), 0)["rewards"] for name, model in models.items()}
    found |= rewards_of_rules(batch, scenario.pulls)
    return {name: rewards.double().mean(0).numpy() for name, rewards in found.items()}


def bandits_of(pulls: int, arms: int, trials: int, *, greedy: bool = False) -> Batch:
    """Return trials of new bandits, one for each."""
    x = {
        "pays": seeding.uniform(seeding.key(SEED, "pays"), range(trials), arms),
        "noise": seeding.uniform(seeding.key(SEED, "noise"), range(trials), pulls),
        "chance": seeding.uniform(seeding.key(SEED, "chance"), range(trials), pulls, 1),
        "greedy": torch.full((trials,), float(greedy), dtype=torch.float64),
    }
    return Batch(x, torch.zeros(trials, dtype=torch.float64))


def rewards_of_rules(batch: Batch, pulls: int) -> dict[str, Tensor]:
    """Return the rewards of rules and of who knows the best arm, ``(trials, pulls)``."""
    x = batch.x
    rules: dict[str, bandit_rules.Scores] = {
        "Gittins and Whittle index": bandit_rules.by_index(pulls),
        "largest posterior mean": bandit_rules.by_mean,
        "Thompson": bandit_rules.by_sampling(SEED),
        "UCB1": bandit_rules.by_upper_bound,
        "best arm": lambda *_: x["pays"],
    }
    return {
        name: bandit_rules.pull(rule, x, x["noise"], x["chance"]).rewards
        for name, rule in rules.items()
    }


# --- trading ----------------------------------------------------------------------------------


def growth_of(run: Path, name: str = "") -> Band:
    """Return what all shares together have earned by the end of each week, in per cent.

    Windows of 20 days are drawn whole for the band, since shares of one month move together.

    Args:
        run: A run directory.
        name: Of a reference; "": what the run's strategy earns after adaptation.
    """
    rows = RunDirectory(run).clients()
    windows = {row["client"]: row["groups"]["window"] for row in rows}
    ending = ":after"
    if name:
        references = json.loads((run / "references.json").read_text(encoding="utf-8"))
        rows = next(each["clients"] for each in references if each["name"] == name)
        ending = ""
    by_window: dict[str, list[list[float]]] = {}
    for row in rows:
        by_window.setdefault(windows[row["client"]], []).append(_weeks(row, ending))
    weeks = np.stack([np.mean(by_window[window], 0) for window in sorted(by_window)])
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(len(weeks), size=(2000, len(weeks)))
    several = 100 * weeks[drawn].reshape(2000, -1).cumsum(1)
    low, high = np.quantile(several, [0.025, 0.975], axis=0)
    return Band(100 * weeks.reshape(-1).cumsum(), low, high)


def _weeks(row: Mapping[str, Any], ending: str) -> list[float]:
    names = [name for name in row if name.startswith("earned/week") and name.endswith(ending)]
    if not ending:
        names = [name for name in names if ":" not in name]
    return [float(row[name]) for name in names]
