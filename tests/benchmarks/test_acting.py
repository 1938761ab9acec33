"""Pictures of episodes: the numbers behind them are those of the runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.acting.__main__ import DRAWN
from benchmarks.acting.episodes import angles_of, growth_of, paths_of, rewards_by_pull, searches_of
from benchmarks.acting.models import model_of
from benchmarks.bandits import Case, evaluated, rules
from fedmaml.config import resolve
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from tests.catalogue import ACTING

STRATEGIES = {
    "navigation": "maml",
    "half_circle": "pearl",
    "arm": "meta_sgd",
    "bandits": "rl2",
    "trading": "maml",
}


def run(folder: Path, scenario: str) -> Path:
    strategy = STRATEGIES[scenario]
    layer: dict[str, Any] = {"scenario": scenario, "strategy": strategy, "rounds": 1, "clients": 2}
    if scenario != "trading":  # whose references are evaluated on test clients
        layer["evaluation"] = {"split": "validation", "largest": 3}
    out = folder / scenario / strategy / "seed0"
    execute(resolve(layer | {"task": ACTING[scenario]}), out)
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for scenario in ("navigation", "half_circle", "arm", "bandits"):
        run(folder, scenario)
    return folder


def test_four_goals_are_approached_from_the_origin(runs: Path) -> None:
    found = paths_of(model_of(runs / "navigation/maml/seed0"))
    assert len({(goal[0] > 0, goal[1] > 0) for goal, _, _ in found}) == len(found) == 4
    for _, before, after in found:
        assert before.shape == after.shape == (5, 8, 2)
        assert np.abs(before[:, 0]).max() <= 0.1 + 1e-6  # the first step, from (0, 0)
        assert not np.array_equal(before, after, equal_nan=True)


def test_each_episode_is_played_by_what_was_seen_before(runs: Path) -> None:
    found = searches_of(model_of(runs / "half_circle/pearl/seed0"))
    goals = np.array([goal for goal, _ in found])
    assert (np.diff(goals[:, 0]) < 0).all()
    for goal, places in found:
        assert np.hypot(*goal) == pytest.approx(1)
        assert places.shape == (15, 20, 2)
        assert np.abs(np.diff(places, axis=1)).max() <= 0.1 + 1e-6


def test_arms_differ_by_their_payload_alone(runs: Path) -> None:
    model = model_of(runs / "arm/meta_sgd/seed0")
    angles = angles_of(model)
    assert list(angles) == ["light", "medium", "heavy"]
    first = [values[0, 0] for values in angles.values()]
    assert first == sorted(first, reverse=True)  # at rest a heavy arm starts slower
    assert all(values.shape == (2, 40) for values in angles.values())


def test_rules_and_networks_pull_the_same_arms(runs: Path) -> None:
    rewards = rewards_by_pull({"RL^2": model_of(runs / "bandits/rl2/seed0")}, trials=2000)
    assert all(values.shape == (6,) for values in rewards.values())
    totals = {name: float(values.sum()) for name, values in rewards.items()}
    assert max(totals, key=lambda name: totals[name]) == "best arm"
    assert rewards["best arm"] == pytest.approx(0.75, abs=0.03)  # E of the largest of 3 U(0, 1)
    assert totals["RL^2"] < totals["Gittins and Whittle index"]


@pytest.mark.parametrize("name", ["navigation", "half_circle", "arm", "bandits"])
def test_the_same_runs_give_the_same_bytes(name: str, runs: Path, tmp_path: Path) -> None:
    for file in ("one.svg", "two.svg"):
        DRAWN[name].draw(runs, tmp_path / file)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.svg").stat().st_size > 5000


@pytest.mark.slow
def test_growth_is_the_sum_of_the_weeks(tmp_path: Path) -> None:
    traded = run(tmp_path, "trading")
    for name in ("", "buy and hold"):
        band = growth_of(traded, name)
        assert band.mean.shape == band.low.shape == (100,)  # 25 windows of 4 weeks
        assert (band.low <= band.high).all()
    ours, held = (growth_of(traded, name).mean[-1] for name in ("", "buy and hold"))
    assert ours != held
    rows = RunDirectory(traded).clients()
    weeks = [[row[f"earned/week {week}:after"] for week in range(1, 5)] for row in rows]
    assert ours == pytest.approx(100 * np.mean(weeks, 0).sum() * 25)  # windows hold equal shares
    DRAWN["trading"].draw(tmp_path, tmp_path / "trading.svg")
    assert (tmp_path / "trading.svg").stat().st_size > 5000


def test_a_network_is_measured_on_the_bandits_of_the_rules(tmp_path: Path) -> None:
    case = Case("plain", 6, 1, {"clients": 2, "task.trials": 2, "task.test_clients": 3})
    first, again = (evaluated(case, 1, tmp_path) for _ in range(2))
    assert first == again  # the run is reused
    assert first["environment_steps"] == 2 * 2 * 2 * 6
    known = {name: row["drawn"]["mean"] for name, row in rules(6).items()}
    assert first["drawn"]["mean"] < known["UCB1-6"] < known["optimum-6"] + 0.05
    assert known["Gittins and Whittle index-6"] == pytest.approx(known["optimum-6"], abs=0.05)
