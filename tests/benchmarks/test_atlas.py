"""The atlas: its systems can be read, and its verdicts are those of the comparison."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.atlas.__main__ import run_apart, with_bands
from benchmarks.atlas.bands import Band, reached, table_of_bands
from benchmarks.atlas.picture import draw
from benchmarks.atlas.systems import EXPERIMENTS, read_system
from benchmarks.atlas.verdicts import (
    MAP,
    Verdict,
    relative,
    row_of_map,
    sentence,
    table_of_methods,
    verdict_on,
    words,
)
from benchmarks.tables import Table
from fedmaml.comparison.comparing import compare, run_all
from fedmaml.comparison.conclusions import Comparison
from fedmaml.comparison.planning import plan
from fedmaml.comparison.verdicts import Metric
from fedmaml.core.counters import Units
from tests.catalogue import reads_data
from tests.conftest import ROOT

ACCURACY, ERROR = Metric("accuracy", "1", "higher"), Metric("mse", "", "lower")
DATA = ROOT / "docs" / "data" / "atlas.json"
FOUND = Verdict("MAML", "FedAvg", 0.8, 0.7, 0.1, 0.05, 0.2, "better")


@pytest.mark.parametrize(
    "file",
    [  # to plan that of molecules reads all of its data
        pytest.param(file, id=file.stem, marks=[pytest.mark.slow] * (file.stem == "molecules"))
        for file in sorted(EXPERIMENTS.glob("*.toml"))
    ],
)
def test_every_system_can_be_planned(file: Path, request: pytest.FixtureRequest) -> None:
    system = read_system(file)
    layers = [dict(system.settings)]
    if reads_data(system.scenario):
        layers.append({"data_dir": str(request.getfixturevalue("data_dir"))})
    planned = plan(system.scenario, system.strategies, system.seeds, layers, None, system.equal)
    assert {"fedavg", "fedadam", "local", *system.strategies} <= set(planned.runs)
    references = planned.runs["fedavg"][0].make_scenario().references()
    rows = {*planned.runs, *(each.name for each in references)}
    assert {name for band in system.bands for name in band.names()} <= rows


def test_a_file_of_something_else_is_refused_and_the_systems_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("title = 'x'\n")
    with pytest.raises(SystemExit, match=r"scenario(.|\n)*Systems of the atlas: .*digits"):
        read_system(file)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    small = {"task.test_clients": 8, "task.train_clients": 20, "task.validation_clients": 4}
    planned = plan("digits", ["fomaml"], 2, [small], 2)
    out = tmp_path_factory.mktemp("atlas")
    run_all(planned, out)
    return compare(planned, out)


@pytest.mark.slow
def test_a_system_that_fails_beside_others_is_named_with_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1 of 2 systems failed"):
        run_apart(["tabular", "none_such"], tmp_path, 2)
    lines = sorted(capsys.readouterr().out.splitlines())
    assert "FAILED" in lines[0]
    assert str(tmp_path / "none_such.log") in lines[0]
    assert "Systems of the atlas" in (tmp_path / "none_such.log").read_text()
    assert lines[1].startswith("tabular")
    assert (tmp_path / "tabular" / "comparison.json").is_file()


def test_the_verdict_is_about_the_best_meta_learner_and_the_best_baseline(
    compared: Comparison,
) -> None:
    found = verdict_on(compared)
    rivals = [row.after for row in compared.rows if row.strategy != "fomaml"]
    rivals += [row.after for row in compared.references if row.federated and not row.oracle]
    best = max(value for value in rivals if value is not None)
    assert found.method == "fomaml"
    assert found.baseline_value == best
    assert found.difference == pytest.approx(found.value - best)
    assert found.low <= found.difference <= found.high


def test_a_card_holds_every_method_and_what_it_reached_on_shuffled_labels(
    compared: Comparison, tmp_path: Path
) -> None:
    table = table_of_methods(compared, compared).markdown()
    for name in ("FedAvg", "FedAdam", "Local", "FOMAML", "1-nearest neighbour"):
        assert name in table
    row = row_of_map("keypads", compared)
    assert "[keypads](atlas/digits.md)" in Table(MAP, {"digits": row}).markdown()
    draw({"digits": row}, tmp_path / "one.svg")
    draw({"digits": row}, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_card_shows_the_steps_of_the_environment_of_support_and_query(
    compared: Comparison,
) -> None:
    took = dict(compared.took)
    assert "environment steps" not in table_of_methods(compared, None).markdown()
    took["fomaml"] = replace(took["fomaml"], counters={"environment_steps": Units(1200, 34)})
    table = table_of_methods(replace(compared, took=took), None).markdown()
    assert "| environment steps, support + query |" in table
    (row,) = [line for line in table.splitlines() if line.startswith("| FOMAML")]
    assert row.endswith("| 1,200 + 34 |")


def test_words_follow_verdict_interval_and_direction() -> None:
    near = replace(FOUND, verdict="not distinguishable")
    assert words(FOUND, ACCURACY) == "helps"
    assert words(near, ACCURACY) == "ahead, not significantly"
    assert words(near, ERROR) == "behind, not significantly"
    assert words(replace(near, low=-0.1), ACCURACY) == "ties"
    assert "MAML against FedAvg: accuracy +0.1" in sentence(FOUND, ACCURACY)


def test_the_removed_error_is_positive_where_the_method_is_better() -> None:
    removed = relative(FOUND, ACCURACY)
    assert removed["mean"] == pytest.approx(0.1 / 0.3)
    assert removed["low"] < removed["mean"] < removed["high"]
    assert relative(FOUND, ERROR)["mean"] == pytest.approx(-0.1 / 0.7)


ROWS = {
    "maml": {"label": "MAML", "before": 0.5, "after": 0.8, "figures": {"gap": {"after": 0.1}}},
    "fedavg": {"label": "FedAvg", "before": 0.6, "after": 0.75},
}
BANDS = (
    Band("maml", least=0.78),
    Band("maml - fedavg", least=0.06),
    Band("fedavg before - fedavg", most=-0.1),
    Band("maml / fedavg", 1.0, 1.1),
    Band("maml", most=0.2, figure="gap"),
    Band("fedavg", most=0.2, figure="gap"),
    Band("anil", least=0.9),
)


def test_bands_are_compared_with_the_rows_that_were_measured() -> None:
    lines = table_of_bands(BANDS, ROWS).markdown().splitlines()[2:]
    assert lines == [
        "| MAML | at least 0.78 | 0.8 | reached |",
        "| MAML minus FedAvg | at least 0.06 | 0.05 | **missed** |",
        "| FedAvg before adapting minus FedAvg | at most -0.1 | -0.15 | reached |",
        "| MAML over FedAvg | 1 to 1.1 | 1.07 | reached |",
        "| gap: MAML | at most 0.2 | 0.1 | reached |",
    ]
    assert reached(BANDS, ROWS) == "4 of 5"
    assert not reached(BANDS[-1:], ROWS)


def test_bands_of_all_systems_are_those_of_their_files(monkeypatch, tmp_path: Path) -> None:
    text = 'title = "x"\nscenario = "digits"\nstrategies = []\n[[bands]]\nof = "maml"\nleast = {}\n'
    monkeypatch.setattr("benchmarks.atlas.__main__.EXPERIMENTS", tmp_path)
    tables = {"map": Table(MAP, {"x": {"title": "x", "minutes": 30.0}}), "x": Table({}, ROWS)}
    for least, expected in ((0.7, "1 of 1"), (0.9, "0 of 1")):
        (tmp_path / "x.toml").write_text(text.format(least))
        tables = with_bands(tables)
        assert tables["map"].rows["x"]["bands"] == expected
        assert tables["x_expected"].rows["0"]["found"] == 0.8
        assert tables["total"].rows["all"] == {"systems": 1, "hours": 0.5}
    (tmp_path / "x.toml").write_text(text.partition("[[")[0])
    assert "x_expected" not in with_bands(tables)


NOTHING_TO_LEARN = {"trading", "graph_cora"}
"""Systems on whose true labels nobody gains, either: a null run shows no difference there."""


@pytest.mark.parametrize("name", sorted(file.stem for file in EXPERIMENTS.glob("*.toml")))
def test_where_there_is_nothing_to_learn_the_best_is_worse(name: str) -> None:
    tables = json.loads(DATA.read_text(encoding="utf-8"))["tables"]
    if name not in tables["map"]["rows"]:
        pytest.skip(f"{name} has not been measured")
    measured = [
        row for row in tables[name]["rows"].values()
        if row["after"] is not None and row.get("chance") is not None
        and "knows the answer" not in row["label"]
    ]  # fmt: skip
    if not measured or name in NOTHING_TO_LEARN:
        return
    sign = 1 if measured[0]["after"] >= measured[-1]["after"] else -1  # the best is first
    assert sign * (measured[0]["after"] - measured[0]["chance"]) > 0


def test_where_meta_learning_helps_all_were_tuned_alike() -> None:
    rows = json.loads(DATA.read_text(encoding="utf-8"))["tables"]["map"]["rows"]
    helps = [name for name, row in rows.items() if row["word"] == "helps"]
    assert helps
    assert [name for name in helps if not rows[name].get("trials")] == []
