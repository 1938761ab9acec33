"""Acceptance of the scenarios with episodes: what their recipes reach on held-out clients."""

from pathlib import Path
from typing import Any

import pytest

from fedmaml.config import resolve
from fedmaml.running import execute

pytestmark = pytest.mark.slow


def reached(out: Path, **layer: Any) -> dict[str, Any]:
    return execute(resolve(layer), out)["metric"]


def test_ten_pulls_of_five_arms_end_near_the_optimum(tmp_path: Path) -> None:
    """6.660 is the most that can be expected; the sampling error of 1000 bandits is .05."""
    found = reached(tmp_path / "run", scenario="bandits", strategy="rl2")
    assert found["after"] >= 6.60


def test_learned_rates_find_the_payload_in_one_step_and_ten(tmp_path: Path) -> None:
    found = reached(tmp_path / "run", scenario="arm", strategy="meta_sgd")
    assert found["after"] <= 0.030
    assert found["at_steps"]["10"]["mean"] <= 0.013


def test_one_step_leads_most_of_the_way_to_the_goal(tmp_path: Path) -> None:
    found = reached(tmp_path / "run", scenario="navigation", strategy="maml", rounds=250)
    assert -48 <= found["before"] <= -37
    assert found["after"] >= -16


def test_one_step_finds_most_goals_of_the_arc(tmp_path: Path) -> None:
    found = reached(tmp_path / "run", scenario="half_circle", strategy="maml")
    assert found["before"] < 0.2
    assert found["after"] > 0.6
