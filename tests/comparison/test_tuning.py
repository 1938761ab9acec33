"""Tuning: the same number of trials for everybody, and no test client asked."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmaml.comparison.budget import Budget
from fedmaml.comparison.comparing import compare, refuse_other_contents, run_all
from fedmaml.comparison.planning import Plan, command, plan, tuned
from fedmaml.comparison.tables import write_files
from fedmaml.comparison.tuning import NOT_TUNED, SEED, SPACE, Around, search_space, tune
from fedmaml.config import RunConfig, flatten_table, resolve
from fedmaml.core.errors import ConfigurationError, RunDirectoryError
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.scenarios import Digits
from fedmaml.strategies import CATALOGUE

FREE = Budget("recipes", None, None, {})
SMALL = {"task.train_clients": 12, "task.validation_clients": 5, "task.test_clients": 4,
         "clients": 3}  # fmt: skip


def small(*strategies: str, rounds: int = 2, equal: str | None = None, **given: Any) -> Plan:
    return plan("digits", strategies, 1, [SMALL | given], rounds, equal)


def first(planned: Plan) -> dict[str, RunConfig]:
    return {name: configs[0] for name, configs in planned.runs.items()}


# --- what is tuned


def test_every_number_that_a_strategy_takes_is_tuned_or_known_not_to_be() -> None:
    for strategy in CATALOGUE:
        config = resolve({"scenario": "digits", "strategy": strategy})
        words = {key.rpartition(".")[2] for key in flatten_table(config.options)}
        assert words <= {*SPACE, *NOT_TUNED}, strategy
        assert search_space(config, FREE), f"{strategy} would have no trials, others would"


def test_steps_are_not_searched_where_epochs_say_how_many_there_are() -> None:
    config = resolve({"scenario": "digits", "strategy": "fedavg", "inner.epochs": 2})
    assert not {"inner.steps", "inner.epochs"} & set(search_space(config, FREE))
    assert "adaptation.steps" in search_space(config, FREE)


def test_baselines_are_tuned_as_fully_as_others() -> None:
    keys = {
        name: list(search_space(config, FREE)) for name, config in first(small("fedprox")).items()
    }
    assert keys == {
        "local": ["inner.lr", "inner.steps"],
        "fedavg": ["inner.lr", "inner.steps", "outer.lr", "adaptation.lr", "adaptation.steps"],
        "fedadam": ["inner.lr", "inner.steps", "outer.lr", "adaptation.lr", "adaptation.steps"],
        "fedprox": [
            "inner.lr", "inner.steps", "outer.lr", "adaptation.lr", "adaptation.steps", "mu",
        ],
    }  # fmt: skip


def test_what_the_user_has_set_stays() -> None:
    planned = small("fomaml", **{"inner.lr": 0.3})
    space = search_space(first(planned)["fomaml"], planned.budget)
    assert list(space) == ["inner.steps", "outer.lr"]


def test_a_search_reaches_as_far_up_as_down() -> None:
    assert Around(10.0).bounds(0.2) == pytest.approx((0.02, 2.0))
    assert Around(3.0, whole=True).bounds(5) == (2, 15)
    assert Around(3.0, whole=True).bounds(1) == (1, 3)


# --- trials


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Splits whose tasks were made."""
    splits: set[str] = set()
    deal: Callable[..., Any] = Digits.tasks

    def listening(self: Digits, split: Any, *arguments: Any) -> Any:
        splits.add(split)
        return deal(self, split, *arguments)

    monkeypatch.setattr(Digits, "tasks", listening)
    return splits


def test_trials_ask_validation_clients_of_another_seed_and_their_best_is_taken(
    tmp_path: Path, asked: set[str]
) -> None:
    planned = small("fomaml")
    found = tune(first(planned), planned.budget, 3, tmp_path)
    assert asked == {"train", "validation"}
    assert [result.trials for result in found.values()] == [3, 3, 3, 3]
    for name, result in found.items():
        values = []
        for number, trial in enumerate(result.history):
            directory = RunDirectory(tmp_path / "tuning" / name / f"trial{number}")
            table, summary = directory.config_table(), directory.summary()
            assert (table["seed"], table["evaluation"]["split"]) == (SEED, "validation")
            assert summary is not None
            assert (summary["clients_test_asked"], summary["clients_evaluated"]) == (0, 5)
            assert trial.value == summary["metric"]["after"]
            flat = flatten_table(table)
            assert {key: flat[key] for key in trial.settings} == trial.settings
            values.append(trial.value)
        recipe = flatten_table(first(planned)[name].options)
        assert all(recipe[key] == value for key, value in result.history[0].settings.items())
        assert (result.recipe, result.best) == (values[0], max(values))
        best = result.history[values.index(max(values))]
        assert {key: setting.chosen for key, setting in result.settings.items()} == best.settings
    after = tuned(planned, found).runs["fomaml"][0]
    assert (after.seed, after.evaluation.split) == (0, "test")
    assert after.options["inner"]["lr"] == found["fomaml"].settings["inner.lr"].chosen


def test_trials_are_resumed_and_a_longer_search_begins_with_the_shorter(tmp_path: Path) -> None:
    planned = small()
    configs = {"fedavg": first(planned)["fedavg"]}
    (before,) = tune(configs, planned.budget, 2, tmp_path).values()
    summaries = [tmp_path / f"tuning/fedavg/trial{number}/summary.json" for number in range(2)]
    stamp = summaries[1].stat().st_mtime_ns
    summaries[0].write_text(summaries[0].read_text()[:100])  # cut short
    (after,) = tune(configs, planned.budget, 3, tmp_path).values()
    assert after.history[:2] == before.history
    assert summaries[1].stat().st_mtime_ns == stamp
    assert json.loads(summaries[0].read_text())["evaluated_split"] == "validation"
    other = small(rounds=3)
    with pytest.raises(RunDirectoryError, match=r"tuning/fedavg/trial0 holds a run with other set"):
        tune({"fedavg": first(other)["fedavg"]}, other.budget, 1, tmp_path)


def sinusoid(**settings: float) -> dict[str, RunConfig]:
    size = {"task.train_clients": 6, "task.validation_clients": 3, "clients": 3, "rounds": 2}
    main = {"scenario": "sinusoid", "strategy": "fedavg"}
    return {"fedavg": resolve(main, size, {k.replace("__", "."): v for k, v in settings.items()})}


@pytest.mark.parametrize(
    ("diverging", "wrong"),
    [
        ({"inner__lr": 1e12}, "in 2 rounds not one client's update could be used"),
        ({"adaptation__lr": 1e12}, "mse diverged or is undefined at validation clients"),
    ],
)
def test_a_trial_that_diverges_is_a_bad_trial_and_no_error(
    diverging: dict[str, float], wrong: str, tmp_path: Path
) -> None:
    for _ in range(2):  # the second time from what is there
        (result,) = tune(sinusoid(**diverging), FREE, 2, tmp_path).values()
        assert (result.failed, result.recipe, result.best) == (2, None, None)
        assert {trial.wrong for trial in result.history} == {wrong}
        assert all(setting.recipe == setting.chosen for setting in result.settings.values())


def test_a_trial_for_which_no_round_fits_into_the_budget_is_a_bad_one(tmp_path: Path) -> None:
    budget = Budget("flops", 1_000, 1, {})
    (result,) = tune(sinusoid(), budget, 1, tmp_path).values()
    assert result.history[0].wrong == "not one round fits into the budget"


@pytest.mark.parametrize("trials", [0, -3])
def test_no_trials_are_refused(trials: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"tune = {trials}: allowed: 1 or more trials"):
        tune(sinusoid(), FREE, trials, tmp_path)


def test_without_validation_clients_there_is_nothing_to_tune_on(tmp_path: Path) -> None:
    planned = plan("quadratic", [], 1, [])
    with pytest.raises(ConfigurationError, match=r"'quadratic' has none.*leave out --tune"):
        tune(first(planned), planned.budget, 2, tmp_path)


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'fedmaml\[tune\]'"):
        tune(sinusoid(), FREE, 2, tmp_path)


# --- the whole of it


def test_equal_bytes_are_equal_as_measured(tmp_path: Path) -> None:
    planned = small("meta_sgd", rounds=4, equal="bytes")
    run_all(planned, tmp_path)
    made = compare(planned, tmp_path)
    assert made.took["fedavg"].rounds == 2 * made.took["meta_sgd"].rounds == 4
    assert made.took["fedavg"].payload_bytes == made.took["meta_sgd"].payload_bytes > 0
    assert made.took["meta_sgd"].payload_bytes == planned.budget.amount
    assert made.took["local"].payload_bytes == 0
    assert all(0 < number <= 4 for number in made.took["fedavg"].evaluated_rounds)
    assert "as many rounds as" in made.notes[0]


@pytest.mark.slow
def test_the_same_command_says_the_same_twice_and_quietly(tmp_path: Path) -> None:
    planned, out = small("protonet", equal="flops"), tmp_path / "c"
    found = tune(first(planned), planned.budget, 2, out)
    again = tuned(planned, found)
    run_all(again, out)
    words = command("digits", ["protonet"], 1, [SMALL], 2, "flops", 2)
    write_files(replace(compare(again, out, found), command=words), out)
    before = {path.name: path.read_bytes() for path in out.glob("*.*")}
    assert set(before) == {*(f"comparison.{e}" for e in ("md", "csv", "tex", "json")),
                           "pairs.csv", "references.csv"}  # fmt: skip
    arguments = ["digits", "--strategies", "protonet", "--seeds", "1", "--rounds", "2", "--tune",
                 "2", "--equal", "flops", "--json", "--out", "c"]  # fmt: skip
    for key, value in SMALL.items():
        arguments += ["--set", f"{key}={value}"]
    done = subprocess.run(
        [sys.executable, "-m", "fedmaml.cli", "compare", *arguments], cwd=tmp_path, text=True,
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert {name: (out / name).read_bytes() for name in before} == before
    said = json.loads(done.stdout)
    assert said == json.loads(before["comparison.json"])
    assert set(said["tuning"]) == {"local", "fedavg", "fedadam", "protonet"}
    assert set(said["tuning"]["local"]["settings"]["inner.lr"]) == {"recipe", "chosen"}
    assert said["equal"] == "flops"
    assert b"## Tuning" in before["comparison.md"]


def test_what_a_comparison_has_not_written_is_refused_before_any_trial(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"report.html is not of a comparison.*--force"):
        refuse_other_contents(tmp_path, tuned=False)
    (tmp_path / "comparison.json").write_text('{"tuning": {}}')
    refuse_other_contents(tmp_path, tuned=False)
    with pytest.raises(RunDirectoryError, match=r"was not tuned, now tuned: .*--force"):
        refuse_other_contents(tmp_path, tuned=True)
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        refuse_other_contents(tmp_path, tuned=True)
