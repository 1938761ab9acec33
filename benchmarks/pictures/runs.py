"""What pictures read from finished runs, and references as those runs fitted them."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.acting.models import statistics_of
from benchmarks.runs import column
from fedmaml.core.tasks import Batch, cast, joined, unstack
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.reference import MAX_TRAINING_CLIENTS, Adapt, TrainingClients
from fedmaml.simulations.scenario import Scenario


def values_of(run: Path, name: str = "") -> dict[int, float]:
    """Return the headline metric of the test clients, by client.

    Args:
        run: A run directory.
        name: Of a reference; "": what the run's strategy has after adaptation.
    """
    metric = RunDirectory(run).summary()["metric"]["name"]
    rows = reference_of(run, name)["clients"] if name else RunDirectory(run).clients()
    values = column(rows, metric if name else f"{metric}:after")
    return {row["client"]: float(value) for row, value in zip(rows, values, strict=True)}


def reference_of(run: Path, name: str) -> Mapping[str, Any]:
    """Return what a run's folder holds about a reference."""
    every = json.loads((run / "references.json").read_text(encoding="utf-8"))
    found: Mapping[str, Any] = next(each for each in every if each["name"] == name)
    return found


def median_client(run: Path) -> int:
    """Return the test client whose metric after adaptation is the (lower) median."""
    values = values_of(run)
    ranked = sorted(values, key=lambda client: (values[client], client))
    return ranked[(len(ranked) - 1) // 2]


@cache
def training_examples(scenario: Scenario) -> tuple[Batch, ...]:
    """Return all examples of each training client, as references get them."""
    clients = scenario.clients()["train"][:MAX_TRAINING_CLIENTS]
    groups = scenario.tasks("train", clients, 1, statistics_of(scenario))
    every = {client: task for group in groups for client, task in unstack(group).items()}
    dtype = scenario.problem().dtype
    return tuple(joined(cast(every[client], dtype)) for client in sorted(every))


def fitted(scenario: Scenario, name: str, settings: Mapping[str, Any]) -> Adapt:
    """Return a reference of a scenario, fitted to its training clients.

    Args:
        scenario: Names it.
        name: Of the reference.
        settings: Those that validation clients chose, see `reference_of`.
    """
    reference = next(each for each in scenario.references() if each.name == name)
    clients = TrainingClients(
        name, reference.federated, statistics_of(scenario), lambda: training_examples(scenario)
    )
    return reference.fit(clients, **settings)


def finite_mean(values: Mapping[int, float]) -> float:
    """Return the mean over clients, without undefined values."""
    return float(np.nanmean(list(values.values())))
