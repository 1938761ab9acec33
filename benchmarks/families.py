"""Is it worth knowing a function's family? The family's own start against the common one.

    python -m benchmarks.families [--runs runs/families] [--json FILE]

Scenario `task_families`: MAML learns one start from functions of all four families, and one for
each family alone. A network that was trained to recognise families (FedAdam, not adapted) chooses
among the four by the five measurements of a test client. Five seeds; complete runs are reused.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from benchmarks.acting.models import Model, model_of
from benchmarks.runs import finished_run, mean_and_interval
from benchmarks.tables import Table, add_json_option, estimate, print_tables, write
from fedmaml.config import resolve
from fedmaml.core.metrics import mean_squared_error
from fedmaml.core.tasks import Task
from fedmaml.simulations.scenarios.task_families import FAMILIES
from fedmaml.strategies.base import with_adaptation_steps

SEEDS = 5
LABELS = {
    "common": "one start for all",
    "recognised": "the start of the family that is recognised",
    "known": "the start of the true family",
}
COLUMNS = {
    "who adapts": ["{label}"],
    "mean squared error": [*estimate("error", ".3f")],
    "minus one start for all": [*estimate("gain", "+.3f"), ""],
    "families right": ["{right:.1%}", ""],
}
_RECOGNISER = {"strategy": "fedadam", "inner.steps": 1, "outer.lr": 0.01}


def trained(runs: Path, name: str, seed: int, settings: Mapping[str, Any]) -> Model:
    """Return the model of a run of the scenario, which is made unless it is there."""
    layer = {"scenario": "task_families", "strategy": "maml", "seed": seed, **settings}
    return model_of(finished_run(resolve(layer), runs / f"{name}-seed{seed}").path)


def errors_of(model: Model, tasks: Task) -> Tensor:
    """Return each client's error after it adapted, ``(clients,)``."""

    def error(task: Task) -> Tensor:
        return mean_squared_error(model.adapt(task.support)(task.query.x), task.query.y)

    with torch.no_grad():
        found: Tensor = vmap(error)(tasks)
    return found.double()


def families_of(recogniser: Model, tasks: Task) -> Tensor:
    """Return the family that is recognised in each client's support, position in `FAMILIES`."""
    prepared = recogniser.prepared
    unadapted = with_adaptation_steps(prepared.strategy, 0).adapt(
        prepared.learner, recogniser.meta, prepared.initial_memory, tasks.support
    )
    with torch.no_grad():
        logits: Tensor = unadapted(torch.cat([tasks.support.x, tasks.support.y], -1))
    return logits.argmax(-1)


def of_seed(runs: Path, seed: int) -> dict[str, float]:
    """Return the mean errors of one seed, and the share of families that were recognised."""
    value = {"task.target": "value"}
    common = trained(runs, "common", seed, value)
    own = [trained(runs, name, seed, {**value, "task.only": name}) for name in FAMILIES]
    recogniser = trained(runs, "recogniser", seed, _RECOGNISER)
    scenario = common.config.make_scenario()
    tasks = common.tasks_of(scenario)
    groups = [scenario.groups(client)["family"] for client in scenario.clients()["test"]]
    true = torch.tensor([FAMILIES.index(group) for group in groups])
    found = families_of(recogniser, tasks)
    errors = torch.stack([errors_of(model, tasks) for model in own], -1)  # (clients, families)
    return {
        "common": float(errors_of(common, tasks).mean()),
        "recognised": float(errors.gather(1, found[:, None]).mean()),
        "known": float(errors.gather(1, true[:, None]).mean()),
        "right": float((found == true).double().mean()),
    }


def table_of(seeds: list[dict[str, float]]) -> Table:
    """Return the rows of all three, over seeds."""
    rows: dict[str, dict[str, Any]] = {}
    for name, label in LABELS.items():
        values = np.array([seed[name] for seed in seeds])
        rows[name] = {"label": label, "error": mean_and_interval(values)}
        if name != "common":
            rows[name]["gain"] = mean_and_interval(values - [seed["common"] for seed in seeds])
    rows["recognised"]["right"] = float(np.mean([seed["right"] for seed in seeds]))
    return Table(COLUMNS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/families"))
    add_json_option(parser)
    arguments = parser.parse_args()
    tables = {"starts": table_of([of_seed(arguments.runs, seed) for seed in range(SEEDS)])}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables, command="python -m benchmarks.families")


if __name__ == "__main__":
    main()
