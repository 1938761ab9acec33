"""Which round a run is evaluated by, and whom it asks."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmaml.config import resolve
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.metrics import ACCURACY, MEAN_SQUARED_ERROR, Metric
from fedmaml.core.params import sha256
from fedmaml.core.records import RoundRecord
from fedmaml.preflight import preflight
from fedmaml.running import audit_before, execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.model_selection import Chosen, better, candidate, value_of
from fedmaml.simulations.scenarios import Digits

BEST = {"evaluation.every": 2, "evaluation.select": "best"}
# Outer steps so large that the model gets worse again: the best round is not the last one.
UNSTEADY = {"scenario": "digits", "strategy": "fedavg", "clients": 3, "outer.lr": 3.0, "seed": 1,
            "inner.steps": 2, "adaptation.steps": 2, "task.train_clients": 9,
            "task.validation_clients": 8, "task.test_clients": 5}  # fmt: skip
ALONE = {"client_batch": 1}  # clients' bits depend on no one else's


def at(round: int, value: float | None) -> Chosen:
    return Chosen(round, {"theta": {"w": torch.tensor(float(round))}}, value)


@pytest.mark.parametrize(
    ("metric", "first", "second", "chosen"),
    [
        (ACCURACY, 0.5, 0.6, 2),
        (ACCURACY, 0.6, 0.5, 1),
        (ACCURACY, 0.6, 0.6, 1),  # the earlier of equals
        (MEAN_SQUARED_ERROR, 0.5, 0.6, 1),
        (MEAN_SQUARED_ERROR, 0.6, 0.5, 2),
        (MEAN_SQUARED_ERROR, math.inf, 0.5, 2),  # diverged, and found back
        (MEAN_SQUARED_ERROR, 0.5, math.inf, 1),
        (MEAN_SQUARED_ERROR, math.inf, math.inf, 1),
        (ACCURACY, 0.1, None, 1),  # not evaluated
        (ACCURACY, None, 0.1, 2),
        (ACCURACY, None, None, 2),  # nothing to choose by: the last one
    ],
)
def test_better_round(metric: Metric, first: Any, second: Any, chosen: int) -> None:
    assert better(at(1, first), at(2, second), metric).round == chosen
    assert better(at(2, second), at(1, first), metric).round == chosen


def test_a_round_is_evaluated_by_the_headline_metric_after_adaptation() -> None:
    evaluated = {"accuracy:before": [0.9], "accuracy:after": [0.4, math.nan], "auc:after": [0.8]}
    value = value_of(ACCURACY, evaluated)
    record = RoundRecord(3, 1, 1, 1.0, {}, (), 0.0, 0.0, validation=value)
    assert candidate(record, {}) == Chosen(3, {}, 0.4)
    assert "validation" not in record.to_json()
    assert value_of(ACCURACY, {"accuracy:after": [math.nan]}) is None
    assert value_of(ACCURACY, {}) is None


@pytest.mark.parametrize("liar", [math.inf, 1e300, -1e300, -math.inf])
def test_one_site_cannot_choose_the_round(liar: float) -> None:
    """It would send one extreme value in all rounds but the one that it wants."""
    rounds = [[1.0, 1.2, 0.9, 1.1, liar], [5.0, 5.2, 4.9, 5.1, 5.0]]
    first, second = (value_of(MEAN_SQUARED_ERROR, {"mse:after": each}) for each in rounds)
    assert better(at(1, first), at(2, second), MEAN_SQUARED_ERROR).round == 1
    assert first == pytest.approx(1.1, abs=0.4)


def test_values_that_are_no_outliers_count_as_they_are() -> None:
    values = [0.2, 0.9, 0.4, 0.6, 0.5, 1.0, 0.1]
    assert value_of(ACCURACY, {"accuracy:after": values}) == sum(values) / len(values)
    assert value_of(MEAN_SQUARED_ERROR, {"mse:after": [1.0, math.inf]}) == math.inf
    assert value_of(MEAN_SQUARED_ERROR, {"mse:after": [1.0, *[math.inf] * 3]}) == math.inf


def test_best_round_is_kept_evaluated_and_named(tmp_path: Path) -> None:
    best = execute(resolve(UNSTEADY, BEST, {"rounds": 9}), tmp_path / "best")
    directory = RunDirectory(tmp_path / "best")
    curve = {
        record["round"]: record["evaluation"]["accuracy:after"]
        for record in directory.rounds() if "evaluation" in record
    }  # fmt: skip
    assert list(curve) == [2, 4, 6, 8, 9]  # every second, and the last one
    earliest = min(number for number, value in curve.items() if value == max(curve.values()))
    assert best["evaluated_round"] == earliest < 9
    assert best["selected_by"] == "best"
    assert best["selected_validation"] == max(curve.values())
    assert sha256(directory.load_meta()) == best["theta_sha256"]
    # The same as a run that ends there.
    short = execute(resolve(UNSTEADY, {"rounds": earliest}), tmp_path / "short")
    assert (short["evaluated_round"], short["selected_by"]) == (earliest, "last")
    assert short["theta_sha256"] == best["theta_sha256"]
    assert short["metric"] == best["metric"]


def test_choosing_changes_nothing_but_the_choice(tmp_path: Path) -> None:
    chosen = execute(resolve(UNSTEADY, BEST, {"rounds": 4}), tmp_path / "best")
    last = execute(resolve(UNSTEADY, {"rounds": 4}), tmp_path / "last")
    losses = [
        [record["metrics"] for record in RunDirectory(tmp_path / name).rounds()]
        for name in ("best", "last")
    ]
    assert losses[0] == losses[1]
    assert chosen["evaluated_round"] != 4 or chosen["theta_sha256"] == last["theta_sha256"]


def test_choice_is_the_same_for_any_grouping_of_clients(tmp_path: Path) -> None:
    runs = [
        execute(
            resolve(UNSTEADY, BEST, ALONE, {"rounds": 4, "nodes": nodes}), tmp_path / str(nodes)
        )
        for nodes in (1, 3)
    ]
    keys = ("evaluated_round", "selected_validation", "theta_sha256", "metric")
    assert [runs[0][key] for key in keys] == [runs[1][key] for key in keys]


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.timeout(240)
def test_choice_is_the_same_on_flower(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    config = resolve(UNSTEADY, BEST, ALONE, {"rounds": 4, "nodes": 2})
    here = execute(config, tmp_path / "here")
    ray = resolve(config.to_table(), {"backend": "flower-simulation"})
    there = execute(ray, tmp_path / "there")
    assert there["evaluated_round"] == here["evaluated_round"]
    assert there["theta_sha256"] == here["theta_sha256"]
    assert there["metric"] == here["metric"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Splits whose tasks were made."""
    splits: list[str] = []
    deal: Callable[..., Any] = Digits.tasks

    def listening(self: Digits, split: Any, *arguments: Any) -> Any:
        splits.append(split)
        return deal(self, split, *arguments)

    monkeypatch.setattr(Digits, "tasks", listening)
    return splits


def test_split_validation_never_asks_a_test_client(tmp_path: Path, asked: list[str]) -> None:
    config = resolve(UNSTEADY, BEST, {"rounds": 2, "evaluation.split": "validation"})
    summary = execute(config, tmp_path / "run")
    assert set(asked) == {"train", "validation"}
    assert summary["evaluated_split"] == "validation"
    assert (summary["clients_test"], summary["clients_test_asked"]) == (0, 0)
    assert (summary["clients_evaluated"], summary["clients_asked"]) == (8, 8)
    assert summary["metric"]["after"] == pytest.approx(summary["selected_validation"])
    rows = RunDirectory(tmp_path / "run").clients()
    assert [row["client"] for row in rows] == list(config.make_scenario().clients()["validation"])


def test_split_test_asks_test_clients_once_at_the_end(tmp_path: Path, asked: list[str]) -> None:
    config = resolve(UNSTEADY, BEST, {"rounds": 2})
    preflight(config)
    audit_before(config)
    before_round_1 = len(asked)
    execute(config, tmp_path / "run")
    assert asked[-1] == "test"
    assert asked[2 * before_round_1 :].count("test") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluation.every": 0}, r"evaluation.every = 0 has none; set evaluation.every to 1"),
        ({"rounds": 0}, r"needs rounds to choose from, and rounds = 0"),
        ({"task.validation_clients": 0}, r"scenario 'digits' has none; set evaluation.select=last"),
        ({"evaluation.select": "first"}, r"evaluation.select = 'first'"),
        (
            {"evaluation.split": "validation", "task.validation_clients": 0},
            r"evaluation.split = 'validation': scenario 'digits' has no validation clients",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve({"scenario": "digits", "strategy": "fedavg"}, BEST, settings)


def test_memory_of_the_last_round_is_not_evaluated_beside_an_earlier_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everyone = {"train": range(5), "validation": range(5, 8), "test": range(5)}
    monkeypatch.setattr(Digits, "clients", lambda _: everyone)
    settings = {"scenario": "digits", "clients": 0}
    with pytest.raises(ConfigurationError, match="'fedrep' leaves a memory at every client"):
        resolve(settings, BEST, {"strategy": "fedrep"})
    resolve(settings, BEST, {"strategy": "fedavg"})  # nothing is kept: nothing to mix
    monkeypatch.undo()
    resolve(settings, BEST, {"strategy": "fedrep"})  # test clients never trained
