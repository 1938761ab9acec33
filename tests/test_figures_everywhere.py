"""A scenario from outside the package: its groups, cells and figures in run, compare and report."""

import csv
import json
import math
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from typer.testing import CliRunner

from fedmaml.cli import app
from fedmaml.config import resolve
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.figures import Figure
from fedmaml.preflight import preflight
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.scenarios import CATALOGUE
from fedmaml.tables.console import console
from tests.surveys import DAYS, Surveys

FIGURES = ("gap of rmse by sex", "pooled rmse")
SECOND = "second survey"


@pytest.fixture(scope="module", autouse=True)
def registered():
    """Make the scenario known, as an installed package of somebody else would."""
    CATALOGUE["surveys"] = Surveys
    yield
    del CATALOGUE["surveys"]


def command(*words: object) -> str:
    with patch.object(console, "_width", 200):  # which it has from when it was made
        result = CliRunner().invoke(
            app, [str(word) for word in words], catch_exceptions=False, env={"COLUMNS": "200"}
        )
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run(registered, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One run and what it prints."""
    out = tmp_path_factory.mktemp("surveys") / "run"
    return out, command("run", "surveys", "--strategy", "fomaml", "--out", out)


@pytest.fixture(scope="module")
def compared(registered, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Three seeds of three strategies and what the comparison prints."""
    out = tmp_path_factory.mktemp("surveys") / "compared"
    return out, command(
        "compare", "surveys", "--strategies", "fomaml", "--seeds", 3, "--out", out
    )  # fmt: skip


def test_a_run_holds_groups_cells_and_both_surveys(run) -> None:
    rows = RunDirectory(run[0]).clients()
    assert len(rows) == 24
    assert rows[1]["groups"] == {"sex": "f", "region": "region 1"}
    assert [row.get("family", "") for row in rows] == [""] * 18 + [SECOND] * 6
    assert all(f"daily_error/{day}:after" in rows[0] for day in DAYS)
    own = rows[:18]
    summary = RunDirectory(run[0]).summary()
    assert summary["families"] == {"": 18, SECOND: 6}
    assert summary["clients_test"] == 18
    assert summary["metric"]["after"] == pytest.approx(np.mean([r["rmse:after"] for r in own]))


def test_a_summary_has_figures_with_intervals_of_each_family(run) -> None:
    rows, summary = RunDirectory(run[0]).clients(), RunDirectory(run[0]).summary()
    found = {(figure["name"], figure["family"]): figure for figure in summary["figures"]}
    # Declared figures of the own clients, and of the others those and the metrics' means.
    assert list(found) == [*((name, "") for name in FIGURES), ("rmse", SECOND), ("r2", SECOND),
                           *((name, SECOND) for name in FIGURES)]  # fmt: skip
    for family, members in (("", rows[:18]), (SECOND, rows[18:])):
        for stage in ("before", "after"):
            errors = {
                sex: [row[f"rmse:{stage}"] for row in members if row["groups"]["sex"] == sex]
                for sex in "mf"
            }
            gap = abs(np.mean(errors["m"]) - np.mean(errors["f"]))
            everyone = np.array(errors["m"] + errors["f"])  # all have as many examples
            assert found["gap of rmse by sex", family][stage] == pytest.approx(gap)
            pooled = math.sqrt(np.mean(everyone**2))
            assert found["pooled rmse", family][stage] == pytest.approx(pooled)
    for figure in found.values():
        low, high = figure["ci95"]
        assert low < figure["after"] < high
        assert figure["why"] == ""
    assert found["gap of rmse by sex", ""]["ci95"][0] >= 0


def test_the_table_of_a_run_shows_all_of_it(run) -> None:
    text = run[1]
    for shown in ("rmse [days]", "daily_error/fri [days]", "gap of rmse by sex [days]",
                  "pooled rmse · second survey [days]", "6 of them second survey"):  # fmt: skip
        assert shown in text
    assert "examples  " not in text  # it only weighs clients


def test_a_comparison_pairs_figures_over_seeds(compared) -> None:
    out, _ = compared
    made = json.loads((out / "comparison.json").read_text())
    assert (made["seeds"], made["clients"]) == (3, 18)
    rows = {(r["figure"], r["family"], r["strategy"]): r for r in made["figures"]}
    summaries = {
        (strategy, seed): RunDirectory(out / strategy / f"seed{seed}").summary()
        for strategy in ("fomaml", "fedavg") for seed in range(3)
    }  # fmt: skip
    for family in ("", SECOND):
        for name in FIGURES:
            row = rows[name, family, "fomaml"]
            values = {
                strategy: [
                    next(
                        figure["after"]
                        for figure in summaries[strategy, seed]["figures"]
                        if (figure["name"], figure["family"]) == (name, family)
                    )
                    for seed in range(3)
                ]
                for strategy in ("fomaml", "fedavg")
            }
            assert row["after"] == pytest.approx(np.mean(values["fomaml"]))
            difference = np.subtract(values["fomaml"], values["fedavg"]).mean()
            assert row["difference"] == pytest.approx(difference)
            low, high = row["difference_ci95"]
            assert low < difference < high
            assert row["p_holm"] >= max(row["p_units"], row["p_seeds"])
            assert row["verdict"] in ("better", "worse", "not distinguishable")
    cells = rows["daily_error/mon", "", "fomaml"]
    assert cells["verdict"] is None
    assert cells["difference_ci95"] is not None
    assert ("rmse", "", "fomaml") not in rows  # the headline metric stands in the first table


def test_a_comparison_and_its_report_show_all_of_it(compared) -> None:
    out, text = compared
    written = list(csv.DictReader((out / "figures.csv").read_text().splitlines()))
    assert {row["figure"] for row in written} >= {*FIGURES, "daily_error/mon", "r2", "rmse"}
    page = (out / "report.html").read_text()
    for form in (text, (out / "comparison.md").read_text(), page):
        for name in (*FIGURES, f"pooled rmse · {SECOND}"):
            assert name in form or name.replace("rmse", "RMSE") in form
        assert "corrected for the number of strategies, not for the number of figures" in " ".join(
            form.split()
        )
    assert "gap of RMSE by sex [days]" in page


def test_one_run_has_a_report_with_its_figures(run, tmp_path: Path) -> None:
    command("report", run[0], "--out", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "gap of RMSE by sex [days]" in page
    assert f"R2 · {SECOND}" in page


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (Figure("f", "1", "higher", lambda c: c["accuracy"].mean()), "no metric or cell 'acc"),
        (Figure("f", "1", "higher", lambda _: 1.0, within="age"), "no label 'age'; they have"),
        (Figure("f", "1", "higher", lambda _: 1.0, resampled="town"), "no label 'town'"),
    ],
)
def test_a_figure_of_what_is_not_there_is_refused_before_the_run(
    figure: Figure, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Surveys, "figures", lambda _: (figure,))
    with pytest.raises(ConfigurationError, match=f"figure 'f' of scenario 'surveys'.*{message}"):
        preflight(resolve({"scenario": "surveys", "strategy": "fomaml"}))


def test_a_figure_that_raises_at_the_end_leaves_the_run_complete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def raising(clients) -> float:
        if set(clients["examples"]) == {20.0}:  # real values, not those that preflight makes up
            raise ZeroDivisionError("nothing")
        return 0.0

    broken = Figure("broken", "1", "higher", raising)
    monkeypatch.setattr(Surveys, "figures", lambda _: (broken,))
    text = command("run", "surveys", "--strategy", "fomaml", "--rounds", 1, "--out", tmp_path)
    (found, *_) = RunDirectory(tmp_path).summary()["figures"]
    assert (found["name"], found["after"]) == ("broken", None)
    assert found["why"] == "its function raises ZeroDivisionError: nothing"
    assert "no interval of broken: its function raises ZeroDivisionError" in text
