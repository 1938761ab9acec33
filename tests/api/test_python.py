"""Runs, comparisons and their results from Python."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fedmaml as fm
from fedmaml.config import resolve
from fedmaml.core.errors import ConfigurationError, RunDirectoryError
from fedmaml.core.settings import settings
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from tests.test_own_files import WARDS

pytestmark = pytest.mark.usefixtures("_catalogues_as_before")

SMALL = {"rounds": 2, "clients": 4, "test_clients": 6, "validation_clients": 3}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> fm.RunResult:
    out = tmp_path_factory.mktemp("runs") / "run"
    return fm.run("digits", inner_steps=2, out=out, evaluation_every=1, **SMALL)


def test_importing_fedmaml_imports_nothing_slow() -> None:
    script = (
        "import sys, fedmaml as fm\n"
        "names = dir(fm)\n"
        "slow = ['torch', 'flwr', 'numpy', 'pandas', 'pydantic', 'matplotlib']\n"
        "assert not [name for name in slow if name in sys.modules]\n"
        "assert set(fm.__all__) <= set(names)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path.cwd())


def test_everything_public_is_there_and_has_a_docstring() -> None:
    for name in fm.__all__:
        assert getattr(fm, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        fm.nothing  # noqa: B018


def test_a_run_is_that_of_the_command_line(result: fm.RunResult, tmp_path: Path) -> None:
    given = {key if key in ("rounds", "clients") else f"task.{key}": value
             for key, value in SMALL.items()}  # fmt: skip
    config = resolve({"scenario": "digits", "inner.steps": 2, "evaluation.every": 1} | given)
    summary = execute(config, tmp_path / "other")
    assert result.summary["theta_sha256"] == summary["theta_sha256"]
    assert fm.load(result.path).summary == result.summary


def test_a_result_has_tables_of_pandas(result: fm.RunResult) -> None:
    pandas = pytest.importorskip("pandas")
    table = result.table()
    assert isinstance(table, pandas.DataFrame)
    assert table.loc[0, "name"] == "accuracy"
    assert table.loc[0, "after"] == result.summary["metric"]["after"]
    clients = result.clients()
    assert len(clients) == 6
    assert clients["accuracy:after"].mean() == pytest.approx(table.loc[0, "after"])
    rounds = result.rounds()
    assert list(rounds["round"]) == [1, 2]
    assert rounds["evaluation.accuracy:after"].notna().all()
    assert (rounds["rejected"] == 0).all()


def test_without_pandas_tables_are_lists(
    result: fm.RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert [row["name"] for row in result.table()] == ["accuracy"]
    assert [row["round"] for row in result.rounds()] == [1, 2]


def test_a_result_has_the_meta_parameters(result: fm.RunResult) -> None:
    assert set(result.meta) == {"theta"}
    assert all(isinstance(value, torch.Tensor) for value in result.theta.values())
    assert result.theta["head.bias"].shape == (10,)


def test_a_result_is_drawn(result: fm.RunResult) -> None:
    pytest.importorskip("matplotlib")
    loss, metric = result.plot().axes
    assert loss.get_ylabel() == "training loss"
    assert "accuracy" in metric.get_ylabel()
    assert list(metric.lines[0].get_xdata()) == [1, 2]


@pytest.mark.slow
def test_a_result_writes_its_report_anew(result: fm.RunResult) -> None:
    pytest.importorskip("jinja2")
    assert result.report() == result.report() == result.path / "report.html"
    assert "MAML on digits" in (result.path / "report.html").read_text()


def test_a_value_has_exactly_its_settings() -> None:
    scenario = fm.Digits(cross=0.5, test_clients=6, validation_clients=3, seed=3)
    strategy = fm.MAML(inner=fm.GradientSteps(lr=0.25, steps=3))
    made = fm.run(scenario, strategy, rounds=1, clients=4)
    config = resolve({"scenario": "digits"} | _config(made))
    assert config.make_scenario() == scenario
    assert config.make_strategy() == strategy
    assert config.seed == 3


def test_what_a_class_leaves_open_comes_from_the_recipe() -> None:
    by_class, by_name = (
        _config(fm.run(scenario, strategy, **SMALL))
        for scenario, strategy in ((fm.Digits, fm.FOMAML), ("digits", "fomaml"))
    )
    assert by_class == by_name


def test_a_class_of_this_process_runs_here_alone() -> None:
    @settings
    class Own(fm.MetaStrategy):
        facts = fm.Local.facts
        inner: fm.GradientSteps = fm.GradientSteps(lr=0.3, steps=1)
        build, adapt = fm.Local.build, fm.Local.adapt
        client_update, server_update = fm.Local.client_update, fm.Local.server_update

    small = SMALL | {"rounds": 0}
    assert fm.run("digits", Own, **small).summary["strategy"] == "own"
    assert fm.run("digits", Own(), **small).summary["strategy"] == "own"
    with pytest.raises(ConfigurationError, match="workers = 2: 'own' is the class Own of this"):
        fm.run("digits", Own, workers=2, **small)
    with pytest.raises(ConfigurationError, match="backend = 'flower-simulation': 'own'"):
        fm.run("digits", Own, backend="flower-simulation", **small)
    MAML = type("MAML", (Own,), {})  # noqa: N806
    with pytest.raises(ConfigurationError, match=r"would be called 'maml'.*rename the class"):
        fm.run("digits", MAML, **small)


def test_files_and_their_classes_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = WARDS.replace("from neighbour import SHARE\n", "").replace("SHARE * ", "")
    (tmp_path / "wings.py").write_text(code)
    spec = importlib.util.spec_from_file_location("wings", tmp_path / "wings.py")
    wings = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "wings", wings)
    spec.loader.exec_module(wings)
    by_class = fm.run(wings.Wards(seed=0), "fomaml", rounds=1)
    by_file = fm.run("wings.py", "fomaml", rounds=1)
    assert by_class.summary["theta_sha256"] == by_file.summary["theta_sha256"]
    assert _config(by_class)["scenario_from"] == f"{tmp_path / 'wings.py'}:Wards"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"innr_steps": 3}, r"unknown key 'innr_steps'.*did you mean 'inner\.steps'"),
        ({"inner_steps": -1}, r"inner\.steps = -1"),
        ({"strategy": "mamal"}, "did you mean 'maml'"),
        ({"scenario": "digit"}, "did you mean 'digits'"),
        ({"scenario": 3}, "scenario = 3: give a name"),
        ({"strategy": fm.Digits}, r"class or value that derives from fm\.MetaStrategy"),
        ({"scenario": "nowhere.py"}, r"no file .*nowhere\.py"),
        ({"inner_steps": 3, "inner.steps": 4}, r"inner\.steps is given twice"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        fm.run(**({"scenario": "digits"} | arguments))
    assert os.listdir() == []


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="nowhere holds no run"):
        fm.load(tmp_path / "nowhere")


def test_a_comparison_has_an_answer_and_a_row_for_each_strategy() -> None:
    pandas = pytest.importorskip("pandas")
    value = fm.MAML(inner=fm.GradientSteps(lr=0.25, steps=1))
    made = fm.compare(
        "digits", [value, "fomaml"], seeds=1, rounds=1, clients=4, test_clients=6,
        validation_clients=3, **{"fomaml:inner.lr": 0.125},
    )  # fmt: skip
    table = made.table()
    assert isinstance(table, pandas.DataFrame)
    assert list(table["strategy"]) == ["local", "fedavg", "fedadam", "maml", "fomaml"]
    assert set(table["verdict"]) == {"reference", "one seed"}
    assert made.headline == made.comparison.headline
    runs = {path.parent.name: fm.load(path) for path in made.directories}
    assert _config(runs["maml"])["inner"]["lr"] == 0.25
    assert _config(runs["fomaml"])["inner"]["lr"] == 0.125
    assert not (made.path / "report.html").exists()
    assert made.report().is_file()
    assert len(made.plot().axes[0].lines) == 4  # local has no rounds


def test_a_comparison_refuses_a_strategy_that_is_there_twice() -> None:
    with pytest.raises(ConfigurationError, match="'maml' is there twice"):
        fm.compare("digits", [fm.MAML(), "maml"])


def _config(made: fm.RunResult) -> dict[str, Any]:
    return RunDirectory(made.path).config_table()


def test_a_run_that_was_cut_short_goes_on_to_the_same_bits(
    result: fm.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fm.run("digits", inner_steps=2, out=tmp_path / "whole", **SMALL | {"rounds": 6})
    done = RunDirectory.save_meta
    monkeypatch.setattr(RunDirectory, "save_meta", interrupted)
    with pytest.raises(KeyboardInterrupt, match="go on with"):
        fm.run("digits", inner_steps=2, out=tmp_path / "cut", **SMALL | {"rounds": 6})
    monkeypatch.setattr(RunDirectory, "save_meta", done)
    again = fm.run(resume=tmp_path / "cut")
    assert again.summary["theta_sha256"] == whole.summary["theta_sha256"]
    with pytest.raises(RunDirectoryError, match="is complete"):
        fm.run(resume=tmp_path / "cut")
    with pytest.raises(ConfigurationError, match="leave out scenario, rounds, inner_steps"):
        fm.run("digits", rounds=3, inner_steps=2, resume=tmp_path / "cut")


def interrupted(*_given: Any) -> None:
    raise KeyboardInterrupt


def test_a_configuration_names_scenario_and_strategy(result: fm.RunResult, tmp_path: Path) -> None:
    again = fm.run(config=result.path / "config.toml", out=tmp_path / "again")
    assert again.summary["theta_sha256"] == result.summary["theta_sha256"]
    with pytest.raises(ConfigurationError, match="scenario = None: give a name"):
        fm.run()


def test_a_missing_extra_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else found(name)
    )
    there = {*tmp_path.iterdir()}
    for call in (fm.run, lambda *given, **more: fm.compare(given[0], ["maml"], **more)):
        with pytest.raises(fm.FedmamlError, match=r"pip install 'fedmaml\[ray\]'"):
            call("digits", backend="flower-simulation", **SMALL)
    assert {*tmp_path.iterdir()} == there
