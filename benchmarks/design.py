"""What strings agents buy towards a hidden target, beside searches: scenario `molecule_design`.

    python -m benchmarks.design [--runs DIR] [--json FILE] [--picture FILE]

PEARL by its recipe, the same agent without context (blind), and one that is shown the target; the
scenario's searches, which buy no string twice; and PEARL under that rule, too: it spells strings
until eight are new. Each test client buys six batches of eight strings. Seed 0. Complete runs in
DIR are reused.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from benchmarks.acting.models import model_of
from benchmarks.acting.pictures import Plane, draw_design
from benchmarks.atlas.bands import Band, table_of_bands
from benchmarks.runs import finished_run, mean_and_interval
from benchmarks.tables import Table, add_json_option, estimate, print_tables, write
from fedmaml.config import resolve
from fedmaml.core.tasks import DrawnBatch, Task, part_of, task_at
from fedmaml.simulations.reference import Adapt, TrainingClients
from fedmaml.simulations.scenarios import MoleculeDesign
from fedmaml.simulations.scenarios.molecule_design import BATCH
from fedmaml.simulations.systems import strings
from fedmaml.simulations.systems.string_search import (
    Propose,
    String,
    fresh,
    random_strings,
    rewards_of_batches,
    searching,
)
from fedmaml.strategies.pearl import PEARL

AGENTS: dict[str, dict[str, Any]] = {
    "PEARL": {},
    "PEARL without context": {"context": 0},
    "PEARL, shown the target": {"context": 0, "task.condition": "target"},
}
OTHER, ONCE = "PEARL, another target's context", "PEARL, none twice"
COLUMNS = {
    "who buys": ["{label}"],
    "mean of batch 1": [*estimate("first", ".3f"), ""],
    "mean of batch 6": [*estimate("last", ".3f")],
    "best of batch 6": [*estimate("best", ".3f")],
    **{f"best of {count}": [f"{{after_{count}:.3f}}", ""] for count in (8, 24, 48)},
}
BANDS = (
    Band("PEARL", least=0.52, figure="mean of batch 6"),
    Band("PEARL", least=0.7, figure="best of batch 6"),
    Band("PEARL - PEARL without context", least=0.25, figure="mean of batch 6"),
    Band(ONCE, least=0.8, most=0.93, figure="best of 48"),
    Band("genetic search", least=0.88, most=0.94, figure="best of 48"),
    Band("random strings", least=0.76, most=0.86, figure="best of 48"),
)
"""What was expected, before it was measured here."""

_SHOWN = (1, 3, 6)  # batches in the picture
_DRAWN = 64  # strings that an agent spells at a time, of which the new ones are bought


def bought(adapt: Adapt, tasks: Task) -> Tensor:
    """Return the rewards of all that clients buy by a network, ``(clients, 6, 8)``."""
    with torch.no_grad():
        found: Tensor = vmap(lambda task: rewards_of_batches(adapt, task, BATCH))(tasks)
    return found.double()


def searched(adapt: Adapt, scenario: MoleculeDesign) -> Tensor:
    """Return the rewards of all that test clients buy by a search, likewise."""
    tasks = scenario.tasks("test", scenario.clients()["test"], 0, {})[0].tasks
    every = [task_at(tasks, row) for row in range(len(tasks.query.y))]
    return torch.stack([rewards_of_batches(adapt, task, BATCH) for task in every]).double()


def by_agent(adapt: Adapt) -> Propose:
    """Return the search that buys what PEARL spells, until all are new; else random strings."""

    def propose(
        known: Sequence[String], rewards: Sequence[float], rng: np.random.Generator, count: int
    ) -> list[String]:
        bought = [[*string, reward] for string, reward in zip(known, rewards, strict=True)]
        rows = torch.tensor(bought, dtype=torch.float32).view(-1, strings.LENGTH + 1)
        latent = {"z": torch.from_numpy(rng.standard_normal(PEARL.facts.draws["z"].shape)).float()}
        predict = adapt(DrawnBatch({"played": rows}, rows[:, 0], latent))
        unseen = {"target": torch.zeros(_DRAWN, 2)}  # the agent does not get it

        def spelled() -> list[String]:
            noise = torch.from_numpy(rng.random((_DRAWN, strings.LENGTH))).float()
            with torch.no_grad():
                found = predict(unseen | {"noise": noise})["played"]
            return [tuple(row) for row in found[:, : strings.LENGTH].int().tolist()]

        return fresh(spelled, known, count, lambda: random_strings(rng, 4 * count))

    return propose


def expected(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table of the expected figures, from the rows of agents and searches."""
    figures = {
        name: {
            "label": row["label"],
            "figures": {
                "mean of batch 6": {"after": row["last"]["mean"]},
                "best of batch 6": {"after": row["best"]["mean"]},
                "best of 48": {"after": row.get("after_48")},
            },
        }
        for name, row in rows.items()
    }
    return table_of_bands(BANDS, figures)


def row_of(label: str, rewards: Tensor) -> dict[str, Any]:
    """Return a row of the table, from rewards ``(clients, 6, 8)``."""
    so_far = best_so_far(rewards)
    return {
        "label": label,
        "first": mean_and_interval(rewards[:, 0].mean(1).numpy()),
        "last": mean_and_interval(rewards[:, -1].mean(1).numpy()),
        "best": mean_and_interval(rewards[:, -1].amax(1).numpy()),
        **{f"after_{count}": float(so_far[count - 1]) for count in (8, 24, 48)},
    }


def best_so_far(rewards: Tensor) -> np.ndarray:
    """Return the mean over clients of the best reward after each string, ``(48,)``."""
    values: np.ndarray = rewards.flatten(1).cummax(1).values.mean(0).numpy()
    return values


def plane_of(adapt: Adapt, task: Task, target: Tensor) -> Plane:
    """Return properties of the strings that a client buys in batches 1, 3 and 6."""
    batches = {}
    for number in _SHOWN:
        with torch.no_grad():
            known = part_of(task.support, 0, (number - 1) * BATCH)
            rows = adapt(known)(task.query.x)["played"]
        tokens = rows[:, : strings.LENGTH].long()
        batches[f"batch {number}"] = strings.properties(strings.composition(tokens)).numpy()
    return Plane(target.numpy(), batches)


def searches(scenario: MoleculeDesign) -> Mapping[str, Callable[[], Adapt]]:
    """Return the scenario's searches, at the first of their settings."""
    nobody = TrainingClients("", True, {}, list)
    return {
        reference.name: partial(reference.fit, nobody, **reference.grid[0])
        for reference in scenario.references()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/design"), help="folder of runs")
    parser.add_argument("--picture", type=Path, help="write the picture there, as SVG")
    add_json_option(parser)
    arguments = parser.parse_args()
    scenario, rewards, models = MoleculeDesign(), {}, {}
    for label, settings in AGENTS.items():
        config = resolve({"scenario": "molecule_design", "strategy": "pearl"}, settings)
        folder = arguments.runs / label.replace(",", "").replace(" ", "-").lower()
        finished_run(config, folder)
        model = models[label] = model_of(folder)
        rewards[label] = bought(model.adapt, model.tasks_of(scenario))
    rewards |= {label: searched(make(), scenario) for label, make in searches(scenario).items()}
    once = searching(by_agent(models["PEARL"].adapt), BATCH)
    rewards[ONCE] = searched(once, scenario)
    rows = {label: row_of(label, values) for label, values in rewards.items()}
    wrong = models["PEARL"].tasks_of(replace(scenario, null=True))
    of_other = row_of(OTHER, bought(models["PEARL"].adapt, wrong))
    rows[OTHER] = {name: of_other[name] for name in ("label", "last", "best")}
    tables = {"batches": Table(COLUMNS, rows), "expected": expected(rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)
    if arguments.picture:
        model, client = models["PEARL"], scenario.clients()["test"][0]
        first = task_at(model.tasks_of(scenario), 0)
        plane = plane_of(model.adapt, first, scenario.targets([client])[0])
        curves = {label: best_so_far(values) for label, values in rewards.items()}
        draw_design(plane, curves, arguments.picture)


if __name__ == "__main__":
    main()
