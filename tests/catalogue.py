"""Which strategies long tests take by default, and which only when slow tests run."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest

from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS

FOUNDING = (
    "local", "fedavg", "fedadam", "fedprox", "maml", "fomaml", "reptile", "meta_sgd", "protonet",
    "fedrep",
)  # fmt: skip
"""One of each kind: baselines, gradient steps, learned rates, comparison, memory at the client."""

AMPLIFY = ("imaml", "per_fedavg_hf", "ridge_head", "r2d2", "empirical_bayes", "scaffold")
"""Strategies that solve systems, or divide by a small step: rounding grows up to a hundredfold."""

ACTING: dict[str, dict[str, Any]] = {
    "tabular": {},
    "delayed_bandit": {"episodes": 5},
    "navigation": {"hidden": 6, "horizon": 8, "episodes": 5},
    "half_circle": {"hidden": 6, "episodes": 5, "radius": 0.3},
    "arm": {"queries": 4},
    "bandits": {"pulls": 6, "arms": 3, "trials": 4},
    "trading": {"data": "positive"},
    "molecule_design": {"hidden": 6},
}
"""Scenarios in which something acts, with settings that make them small and need no data."""


def slow_unless(default: bool, *values: Any) -> Any:
    """Return a case of a parametrised test that is slow, or one that is not."""
    return pytest.param(*values, marks=[] if default else [pytest.mark.slow])


def founding_first(names: Iterable[str], also: tuple[str, ...] = ()) -> list[Any]:
    """Return a case for each name, slow unless the strategy is founding or asked for, too."""
    return [slow_unless(name in (*FOUNDING, *also), name) for name in names]


def reads_data(scenario: str) -> bool:
    """Return whether a scenario reads a data folder; a test then needs the fixture ``data_dir``."""
    return "data_dir" in {field.name for field in dataclasses.fields(SCENARIOS[scenario])}
