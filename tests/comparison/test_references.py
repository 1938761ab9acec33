"""References and the strongest baseline in comparisons: differences, first line, what users see."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from fedmaml import cli
from fedmaml.comparison.headline import with_rivals
from fedmaml.comparison.references import ReferenceRow, about, reference_rows
from fedmaml.comparison.tables import as_markdown, references_as_csv
from fedmaml.comparison.verdicts import Metric, compare_pairs, compare_with, evaluate
from fedmaml.config import resolve
from fedmaml.core.statistics import holm
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from tests.windows import Windows

ACCURACY = Metric("accuracy", "1", "higher")
ERROR = Metric("mse", "1", "lower")
BASELINES = ("local", "fedavg", "fedadam")
Values = list[dict[int, float]]


def values(level: float, noise: float = 0.01, key: int = 0) -> Values:
    """Return values at 5 seeds x 20 clients about a level."""
    table = level + noise * np.random.default_rng(key).normal(size=(5, 20))
    return [dict(enumerate(seed)) for seed in table]


def row(name: str, found: Values, after: Mapping[str, Values], metric: Metric, **facts: bool):
    facts = {"federated": True, "oracle": False} | facts
    mean = float(np.mean([list(seed.values()) for seed in found]))
    against = compare_with(metric, after, {name: found})
    return ReferenceRow(name, name, "", **facts, settings=(), tuned_on=0, after=mean,
                        against=against)  # fmt: skip


def first_line(levels: Mapping[str, float], *references: tuple, metric: Metric = ACCURACY) -> str:
    after = {name: values(level, key=place) for place, (name, level) in enumerate(levels.items())}
    rows = evaluate(metric, dict.fromkeys(after, 1), after, after)
    rows_of = [
        row(name, values(level, key=99), after, metric, **facts)
        for name, level, facts in references
    ]
    pairs = compare_pairs(metric, after)
    return with_rivals("Base.", metric, rows, pairs, rows_of, BASELINES)


# --- the first line


PLAIN = {"local": 0.5, "fedavg": 0.7}


@pytest.mark.parametrize(
    ("levels", "references", "line"),
    [
        (PLAIN | {"maml": 0.8}, [], "Base."),
        # a baseline, a reference, both
        (
            PLAIN | {"fedadam": 0.9, "maml": 0.8}, [],
            "FedAdam (baseline) is significantly better than every meta-learning strategy. Base.",
        ),
        (
            PLAIN | {"maml": 0.8, "fomaml": 0.75}, [("nearest", 0.9, {})],
            "nearest (reference) is significantly better than every meta-learning strategy. Base.",
        ),
        (
            PLAIN | {"fedadam": 0.85, "maml": 0.8}, [("forest", 0.9, {"federated": False})],
            "FedAdam (baseline) and forest (reference, not federated) are significantly better "
            "than every meta-learning strategy. Base.",
        ),
        # one of two meta-learners is better than it
        (PLAIN | {"maml": 0.8, "fomaml": 0.95}, [("nearest", 0.9, {})], "Base."),
        # an oracle is no rival
        (PLAIN | {"maml": 0.8}, [("oracle", 1.0, {"oracle": True})], "Base."),
        # better than FedAvg, but not than the strongest baseline
        (
            PLAIN | {"fedadam": 0.797, "maml": 0.8}, [],
            "Base. No meta-learning strategy is significantly better than FedAdam (baseline).",
        ),
        # ahead, not significantly
        (
            PLAIN | {"fedadam": 0.802, "maml": 0.8}, [],
            "Base. Ahead of every meta-learning strategy, but not significantly: FedAdam "
            "(baseline).",
        ),
        # no meta-learning at all
        (PLAIN | {"fedadam": 0.9}, [("nearest", 0.95, {})], "Base."),
    ],
)  # fmt: skip
def test_first_line_names_who_beats_every_meta_learner(
    levels: dict[str, float], references: Sequence[tuple], line: str
) -> None:
    assert first_line(levels, *references) == line


def test_where_lower_is_better_the_lower_one_wins() -> None:
    levels = {"local": 0.9, "fedavg": 0.7, "maml": 0.5}
    assert first_line(levels, ("nearest", 0.6, {}), metric=ERROR) == "Base."
    line = first_line(levels, ("nearest", 0.4, {}), metric=ERROR)
    assert line.startswith("nearest (reference) is significantly better than every meta-learning")


def test_a_meta_learner_that_diverged_is_not_counted_as_beaten() -> None:
    after = {name: values(level) for name, level in PLAIN.items()}
    after["maml"] = [dict.fromkeys(range(20), np.inf)] * 5
    rows = evaluate(ACCURACY, dict.fromkeys(after, 1), after, after)
    nearest = row("nearest", values(0.9, key=3), after, ACCURACY)
    assert nearest.against[2].verdict == "diverged"
    assert with_rivals("Base.", ACCURACY, rows, (), [nearest], BASELINES) == "Base."


# --- differences


def test_every_strategy_is_held_against_every_reference_in_a_family_of_its_own() -> None:
    after = {"fedavg": values(0.7), "maml": values(0.8, key=1)}
    others = {"one": values(0.75, key=2), "two": values(0.8, key=3)}
    pairs = compare_with(ACCURACY, after, others)
    assert [(pair.second, pair.first) for pair in pairs] == [
        ("one", "fedavg"), ("one", "maml"), ("two", "fedavg"), ("two", "maml"),
    ]  # fmt: skip
    for pair in pairs:
        differences = [
            [one[c] - other[c] for c in one]
            for one, other in zip(after[pair.first], others[pair.second], strict=True)
        ]
        assert pair.difference == pytest.approx(np.mean(differences))
    raw = [max(pair.p_clients, pair.p_seeds) for pair in pairs]
    assert [pair.p_holm for pair in pairs] == holm(raw)
    assert [pair.verdict for pair in pairs[:3]] == ["worse", "better", "worse"]
    assert pairs[1].sentence.startswith("MAML is better than one: accuracy +0.0")


# --- as a user sees it: a scenario of one's own with three references


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCENARIOS, "windows", Windows)


def called(monkeypatch, capsys, *arguments: object) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", ["fedmaml", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    return said.out, said.err


REFERENCES = ("persistence", "ridge to the mean", "pooled random forest")


@pytest.mark.usefixtures("windows")
def test_a_run_is_held_against_its_scenarios_references(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    out, _ = called(monkeypatch, capsys, "run", "windows", "--out", tmp_path / "run")
    words = " ".join(out.split())
    assert "pooled random forest (not federated): a random forest on the pooled examples" in words
    assert "chosen on 4 validation clients" in words
    directory = RunDirectory(tmp_path / "run")
    summary = directory.summary()
    assert [one["name"] for one in summary["references"]] == list(REFERENCES)
    # by hand, from the two files
    ours = {one["client"]: one["mse:after"] for one in directory.clients()}
    for reported, kept in zip(summary["references"], directory.references(), strict=True):
        theirs = {one["client"]: one["mse"] for one in kept["clients"]}
        assert theirs.keys() == ours.keys()
        mean = np.mean([ours[client] - theirs[client] for client in ours])
        assert reported["metrics"][0]["difference"] == pytest.approx(mean)
    shown, _ = called(monkeypatch, capsys, "show", tmp_path / "run")
    assert "pooled random forest (not federated): a random forest" in " ".join(shown.split())


@pytest.mark.usefixtures("windows")
def test_while_settings_are_tuned_no_reference_sees_a_test_client(tmp_path: Path) -> None:
    config = resolve({"scenario": "windows", "rounds": 1, "evaluation.split": "validation"})
    summary = execute(config, tmp_path / "trial")
    assert summary["references"] == []
    assert not (tmp_path / "trial" / "references.json").exists()


@pytest.mark.usefixtures("windows")
def test_a_comparison_and_its_report_show_all_of_it(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    folder = tmp_path / "c"
    arguments = ["compare", "windows", "--strategies", "maml", "--seeds", 2, "--out", folder]
    out, _ = called(monkeypatch, capsys, *arguments, "--set", "maml:inner.lr=.02")
    table = json.loads((folder / "comparison.json").read_text())
    assert [one["name"] for one in table["references"]] == list(REFERENCES)
    assert [one["strategy"] for one in table["rows"]] == ["local", "fedavg", "fedadam", "maml"]
    assert table["settings"]["maml"]["inner.lr"] == 0.02
    assert "--set maml:inner.lr=0.02" in table["command"]
    # means and differences by hand, from the runs' own files
    forest = table["references"][2]
    assert forest["label"] == "pooled random forest (not federated)"
    means, differences = [], []
    for seed in range(2):
        directory = RunDirectory(folder / "maml" / f"seed{seed}")
        theirs = {one["client"]: one["mse"] for one in directory.references()[2]["clients"]}
        ours = {one["client"]: one["mse:after"] for one in directory.clients()}
        means.append(np.mean(list(theirs.values())))
        differences.append(np.mean([ours[client] - theirs[client] for client in ours]))
    assert forest["after"] == pytest.approx(np.mean(means))
    (against,) = [pair for pair in forest["against"] if pair["first"] == "maml"]
    assert against["difference"] == pytest.approx(np.mean(differences))
    for text in (out, (folder / "comparison.md").read_text(), (folder / "report.html").read_text()):
        assert all(name in text for name in REFERENCES)
        assert "not federated" in text
    assert (folder / "references.csv").read_text().count("\n") == 1 + 3 * 4
    page = (folder / "report.html").read_text()
    assert "Every strategy against every reference, in words" in page
    # what untrained strategies are next to: the first line says so
    first = " ".join(out[: out.index("windows · mse")].split())
    assert "persistence (reference)" in first
    assert "pooled random forest (reference, not federated)" in first
    # made from the directories alone, the page says the same of the references
    (folder / "comparison.json").unlink()
    called(monkeypatch, capsys, "report", folder, "--force")
    assert "pooled random forest (not federated)" in (folder / "report.html").read_text()


@pytest.mark.usefixtures("windows")
def test_the_page_of_a_single_run_holds_it_against_references(
    tmp_path, monkeypatch, capsys
) -> None:
    called(monkeypatch, capsys, "run", "windows", "--out", tmp_path / "run")
    called(monkeypatch, capsys, "report", tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "run minus it" in page
    assert "pooled random forest (not federated)" in page


@pytest.mark.usefixtures("windows")
def test_references_that_one_seed_lacks_are_not_compared(tmp_path: Path) -> None:
    for seed in range(2):
        config = resolve({"scenario": "windows", "strategy": "fedavg", "rounds": 1, "seed": seed})
        execute(config, tmp_path / f"seed{seed}")
    runs = {"fedavg": {seed: tmp_path / f"seed{seed}" for seed in range(2)}}
    directory = RunDirectory(tmp_path / "seed1")
    directory.save_references(directory.references()[:2])
    after = {"fedavg": [{12: 1.0}, {12: 1.0}]}
    rows = reference_rows(ERROR, runs, after, {})
    assert [one.name for one in rows] == list(REFERENCES[:2])
    assert all(pair.first == "fedavg" for one in rows for pair in one.against)
    assert reference_rows(ERROR, runs, after, {"fedavg": "diverged"})[0].against == ()


def test_what_a_reference_predicts_is_said_with_its_settings() -> None:
    one = ReferenceRow("k", "k", "means", True, False, ({"n": 1}, {"n": 3}, {"n": 1}), 20, 0.5, ())
    assert about(one) == "k: means (n = 1 or 3, chosen on 20 validation clients)."
    plain = ReferenceRow("k", "k", "means", True, False, ({},), 0, 0.5, ())
    assert about(plain) == "k: means."


def test_a_comparison_without_references_has_no_table_of_them() -> None:
    from tests.comparison.test_compare import comparison

    made = comparison(maml=0.05)
    assert "## References" not in as_markdown(made)
    assert references_as_csv(made).count("\n") == 1
