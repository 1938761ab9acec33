"""Comparisons: what is planned, what is run again, what may be concluded, what is written."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmaml.comparison.comparing import compare, run_all
from fedmaml.comparison.conclusions import Comparison
from fedmaml.comparison.findings import Setting, TrainingCost, Tuned
from fedmaml.comparison.planning import Plan, plan
from fedmaml.comparison.tables import (
    as_csv,
    as_latex,
    as_markdown,
    pairs_as_csv,
    print_comparison,
    write_files,
)
from fedmaml.comparison.verdicts import Metric, Row, compare_pairs, evaluate
from fedmaml.core.errors import (
    BackendError,
    ConfigurationError,
    OtherFormatError,
    RunDirectoryError,
)
from fedmaml.core.statistics import holm
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.records import FORMAT
from fedmaml.server.flower_strategy import FlowerStrategy
from tests.commands import COMMAND, fedmaml
from tests.killed import outcome

SMALL = {"task.test_clients": 8, "task.train_clients": 20}
ACCURACY = Metric("accuracy", "1", "higher")
FILES = (
    "comparison.md", "comparison.csv", "comparison.tex", "comparison.json", "pairs.csv",
    "references.csv",
)  # fmt: skip
TUNED = Tuned(10, 1, 0.4372, 0.4581, {"adaptation.steps": Setting(30, 90)}, ())


def small(*strategies: str, seeds: int = 2, rounds: int = 2, **settings: float) -> Plan:
    layers = [SMALL, {key.replace("__", "."): value for key, value in settings.items()}]
    return plan("digits", strategies, seeds, layers, rounds)


def values_of(**shifts: float) -> dict[str, list[dict[int, float]]]:
    """Return values at 5 seeds x 40 clients: FedAvg's are noise, others' shifted and noisier."""
    rng = np.random.default_rng(0)
    base = 0.7 + 0.1 * rng.normal(size=(5, 40))
    table = {"fedavg": base} | {
        name: base + shift + 0.05 * rng.normal(size=base.shape) for name, shift in shifts.items()
    }
    return {name: [dict(enumerate(seed)) for seed in array] for name, array in table.items()}


def synthetic(**shifts: float) -> tuple[Row, ...]:
    values = values_of(**shifts)
    return evaluate(ACCURACY, dict.fromkeys(values, 10), values, values)


# --- plan


def test_the_baselines_are_always_in_and_settings_reach_those_who_know_them() -> None:
    planned = small("maml", "maml", inner__lr=0.3, adaptation__steps=7)
    assert list(planned.runs) == ["local", "fedavg", "fedadam", "maml"]
    assert [config.seed for config in planned.runs["maml"]] == [0, 1]
    assert all(configs[0].options["inner"]["lr"] == 0.3 for configs in planned.runs.values())
    assert planned.runs["fedavg"][0].options["adaptation"]["steps"] == 7
    assert "adaptation" not in planned.runs["maml"][0].options
    assert [configs[0].rounds for configs in planned.runs.values()] == [0, 2, 2, 2]
    assert len({json.dumps(configs[1].task) for configs in planned.runs.values()}) == 1


@pytest.mark.parametrize(
    ("strategies", "seeds", "layer", "message"),
    [
        (["mamal"], 1, {}, "strategy = 'mamal': there is no such strategy; did you mean 'maml'"),
        (["maml"], 0, {}, "seeds = 0: allowed: 1 or more"),
        (["maml"], 1, {"iner.lr": 1}, "unknown key 'iner.lr'.*did you mean 'inner.lr'"),
        (["maml"], 1, {"mu": 1}, "unknown key 'mu': neither scenario 'digits' nor any of local"),
        (["maml"], 1, {"seed": 1}, "seed = 1: a comparison takes the seed with --seeds"),
        (
            ["maml"],
            1,
            {"task.seed": 3},
            "task.seed = 3: a comparison takes the task.seed wi",
        ),
        (["maml"], 1, {"inner.steps": True}, "inner.steps = True: input should be a number"),
        (["maml"], 1, {"inner.lr": "x"}, "inner.lr = 'x'"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(strategies, seeds, layer, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan("digits", strategies, seeds, [layer], None)


def test_an_unknown_scenario_is_reported() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'digits'"):
        plan("digit", ["maml"], 1, [], None)


# --- run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A comparison whose runs are complete; tests leave it as it is."""
    planned, out = small("fomaml"), tmp_path_factory.mktemp("comparison")
    run_all(planned, out)
    return planned, out


def stamps(out: Path) -> dict[str, int]:
    return {str(path.parent): path.stat().st_mtime_ns for path in out.rglob("summary.json")}


def test_complete_runs_are_reused_and_new_strategies_and_seeds_are_added(tmp_path: Path) -> None:
    run_all(small("fomaml", seeds=1), tmp_path)
    before = stamps(tmp_path)
    assert len(before) == 4
    run_all(small("fomaml", "reptile", seeds=2), tmp_path)
    after = stamps(tmp_path)
    assert len(after) == 10
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize(
    "name", ["summary.json", pytest.param("clients.jsonl", marks=pytest.mark.slow)]
)
def test_a_run_cut_short_is_run_again_and_gives_the_same(name: str, tmp_path: Path) -> None:
    planned = small(seeds=1)
    run_all(planned, tmp_path)
    first = as_csv(compare(planned, tmp_path))
    path = tmp_path / "fedavg" / "seed0" / name
    path.write_text(path.read_text()[:200])
    run_all(planned, tmp_path)
    assert as_csv(compare(planned, tmp_path)) == first


@pytest.mark.parametrize("damaged", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_interrupted_run_of_a_comparison_goes_on_where_it_was(
    damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    planned = small("fedrep", seeds=1, rounds=5)
    run_all(planned, tmp_path / "whole")
    step, cut = FlowerStrategy.step, tmp_path / "cut"

    def interrupted(self: FlowerStrategy, number: int, replies: Any) -> Any:
        if number == 4 and self.keeps_memories:  # FedRep alone
            raise KeyboardInterrupt
        return step(self, number, replies)

    monkeypatch.setattr(FlowerStrategy, "step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="3 of 5 rounds are kept"):
        run_all(planned, cut)
    monkeypatch.undo()
    if damaged:
        for state in (cut / "fedrep" / "seed0").glob("journal*"):
            state.write_bytes(b"?")
    run_all(planned, cut)
    summary = RunDirectory(cut / "fedrep" / "seed0").summary()
    assert summary is not None
    assert summary.get("resumed_after") == (None if damaged else [3])
    assert damaged == ("begins anew: no state in" in caplog.text)
    for name in planned.runs:
        assert outcome(cut / name / "seed0") == outcome(tmp_path / "whole" / name / "seed0"), name
    assert compare(planned, cut) == compare(planned, tmp_path / "whole")


def test_a_run_in_another_format_is_not_run_again_unless_forced(tmp_path: Path) -> None:
    planned = small(seeds=1)
    run_all(planned, tmp_path)
    path = tmp_path / "fedavg" / "seed0" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(OtherFormatError, match=r"in format 99"):
        run_all(planned, tmp_path)
    run_all(planned, tmp_path, force=True)
    assert json.loads(path.read_text())["format"] == FORMAT


def test_other_settings_are_refused_and_nothing_is_touched_unless_forced(tmp_path: Path) -> None:
    run_all(small(seeds=1), tmp_path)
    before = stamps(tmp_path)
    other = small("fomaml", seeds=1, rounds=1)
    with pytest.raises(RunDirectoryError, match=r"rounds = 2, now 1.*--out.*--force"):
        run_all(other, tmp_path)
    assert stamps(tmp_path) == before
    run_all(other, tmp_path, force=True)
    after = stamps(tmp_path)
    local, fedavg = (str(tmp_path / name / "seed0") for name in ("local", "fedavg"))
    assert after[local] == before[local]  # its settings are the same: not run again
    assert after[fedavg] != before[fedavg]


def test_the_directory_of_a_single_run_is_refused(finished) -> None:
    planned, out = finished
    with pytest.raises(RunDirectoryError, match="directory of a single run"):
        run_all(planned, out / "fomaml" / "seed0", force=True)


def test_an_error_names_the_run(tmp_path: Path) -> None:
    (tmp_path / "fedavg").write_text("a file where a folder must be")
    with pytest.raises(BackendError, match="fedavg, seed 0: cannot write"):
        run_all(small(seeds=1), tmp_path)


# --- evaluate


def test_what_is_really_better_is_called_better_and_what_is_equal_is_not() -> None:
    rows = {row.strategy: row for row in synthetic(good=0.05, bad=-0.05, equal=0.0)}
    assert {name: row.verdict for name, row in rows.items()} == {
        "fedavg": "reference", "good": "better", "bad": "worse", "equal": "not distinguishable",
    }  # fmt: skip
    assert rows["good"].sentence.startswith("good is better than fine-tuned FedAvg: accuracy +0.0")
    assert rows["bad"].sentence.startswith("bad is worse than fine-tuned FedAvg: accuracy -0.0")
    assert "equal is not distinguishable from fine-tuned FedAvg" in rows["equal"].sentence


def test_where_lower_is_better_the_verdicts_turn_round() -> None:
    values = {
        name: [{client: level + 0.01 * seed * client for client in range(9)} for seed in range(5)]
        for name, level in (("fedavg", 2.0), ("maml", 1.0))
    }
    values["maml"][0][0] = 1.01  # otherwise all differences are alike
    rows = evaluate(Metric("mse", "1", "lower"), {"fedavg": 1, "maml": 1}, values, values)
    assert rows[1].verdict == "better"
    assert rows[1].difference == pytest.approx(-1, abs=0.01)


def test_one_lucky_seed_is_not_enough() -> None:
    # Two of five seeds gain .1 at all 40 clients, three lose a little: Wilcoxon over the 200 pairs
    # is convinced, the seeds are not, and they decide.
    noise = 0.01 * np.random.default_rng(0).normal(size=(5, 40))
    gains = noise + np.array([[0.1], [0.1], [0.02], [-0.01], [-0.01]])
    fedavg = [dict.fromkeys(range(40), 0.5)] * 5
    values = {"fedavg": fedavg, "maml": [dict(enumerate(0.5 + seed)) for seed in gains]}
    row = evaluate(ACCURACY, {"fedavg": 1, "maml": 1}, values, values)[1]
    assert row.p_clients < 0.001
    assert row.p_seeds > 0.05
    assert row.verdict == "not distinguishable"


def test_diverged_and_undefined_clients_give_no_number() -> None:
    values = {
        "fedavg": [{0: 1.0, 1: 2.0}], "lost": [{0: 1.0, 1: np.inf}], "empty": [{0: np.nan}],
    }  # fmt: skip
    _, lost, empty = evaluate(Metric("mse", "1", "lower"), dict.fromkeys(values, 1), values, values)
    assert (lost.verdict, lost.difference, lost.difference_ci95) == ("diverged", None, None)
    assert "diverged at a test client; lower the learning rate" in lost.sentence
    assert empty.verdict == "not distinguishable"
    assert "mse is undefined at every test client" in empty.sentence


def test_every_two_others_are_held_against_each_other_in_a_family_of_their_own() -> None:
    after = values_of(good=0.05, bad=-0.05, equal=0.0, alike=0.001)
    pairs = {(pair.first, pair.second): pair for pair in compare_pairs(ACCURACY, after)}
    assert list(pairs) == [
        ("good", "bad"), ("good", "equal"), ("good", "alike"),
        ("bad", "equal"), ("bad", "alike"), ("equal", "alike"),
    ]  # fmt: skip
    assert [pair.verdict for pair in pairs.values()] == [
        "better", "better", "better", "worse", "worse", "not distinguishable",
    ]  # fmt: skip
    raw = [max(pair.p_clients, pair.p_seeds) for pair in pairs.values()]
    assert [pair.p_holm for pair in pairs.values()] == holm(raw)  # six pairs, FedAvg's not counted
    best = pairs["good", "bad"]
    means = [np.mean([list(seed.values()) for seed in after[name]]) for name in ("good", "bad")]
    assert best.difference == pytest.approx(means[0] - means[1])
    assert best.sentence.startswith("good is better than bad: accuracy +0.")
    assert "equal is not distinguishable from alike: " in pairs["equal", "alike"].sentence


def test_pairs_of_what_diverged_have_a_word_of_their_own() -> None:
    values = {
        "fedavg": [{0: 1.0, 1: 2.0}], "lost": [{0: np.inf, 1: 1.0}], "fine": [{0: 0.5, 1: 0.6}],
    }  # fmt: skip
    (pair,) = compare_pairs(Metric("mse", "1", "lower"), values)
    assert (pair.verdict, pair.difference) == ("diverged", None)
    assert "lost cannot be compared with fine: one of them diverged" in pair.sentence


# --- tables


def test_two_comparisons_write_the_same_bytes(finished, tmp_path: Path) -> None:
    planned, out = finished
    run_all(planned, tmp_path)
    for folder in (out, tmp_path):
        write_files(compare(planned, folder), folder)
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes()


def comparison(**shifts: float) -> Comparison:
    rows = synthetic(**shifts)
    settings = {row.strategy: {"rounds": 10, "x": row.strategy} for row in rows}
    took = {row.strategy: TrainingCost(10, (8, 10, 10, 9, 10), 2.5e6, 4.2e9) for row in rows}
    pairs = compare_pairs(ACCURACY, values_of(**shifts))
    known = "Answer.", rows, ("Note.",), settings, took, pairs
    return Comparison("digits", ACCURACY, 5, 40, *known)


def test_every_form_has_every_strategy() -> None:
    made = comparison(meta_sgd=0.05, maml=0.0)
    assert as_markdown(made).startswith("# Answer.\n")
    assert as_csv(made).count("\n") == 4
    assert "Meta-SGD & 10 & " in as_latex(made)
    assert "Meta-SGD" in as_markdown(made)
    assert "meta_sgd" in as_csv(made)
    assert "| MAML | 10 | 8 to 10 | 2.50 MB | 4.20 GFLOP |" in as_markdown(made)
    assert "| MAML | ~ | - |  |" in as_markdown(made)
    assert "- Meta-SGD is better than MAML: accuracy +0.0" in as_markdown(made)
    assert pairs_as_csv(made).splitlines()[1].startswith("digits,accuracy,meta_sgd,maml,0.0")
    assert as_csv(made).splitlines()[1].endswith("reference,2500000.0,4200000000.0")
    assert "All: rounds=10" in as_markdown(made)
    assert "- maml: x=maml" in as_markdown(made)


def test_the_table_fits_80_columns(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made = replace(comparison(meta_sgd=-12.5, protonet=1e-4), tuning={"meta_sgd": TUNED})
    small = replace(made.rows[2], difference_ci95=(-0.0123, -0.0004), p_holm=0.0)
    made = replace(made, rows=(*made.rows[:2], small))
    print_comparison(made, [Path("x/comparison.md")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Answer."
    assert all(len(line) <= 80 for line in lines)
    assert "…" not in "".join(lines)
    assert any("strategy" in line and "vs FedAvg" in line for line in lines)
    assert any("from 0.437 to 0.458" in line for line in lines)  # no range: what tuning gained
    assert any("Meta-SGD" in line and "-12.5" in line and "<.001" in line for line in lines)
    assert any("ProtoNet" in line and "-0.012 to -0.0004" in line for line in lines)


def test_matrix_is_left_to_the_file_where_the_terminal_is_too_narrow(capsys, monkeypatch) -> None:
    names = ["a_rather_long_name_of_a_strategy", "and_another_one_that_is_as_long_as_that"]
    made = comparison(**dict.fromkeys(names, 0.1))
    for columns, fits in ((80, False), (160, True)):
        monkeypatch.setenv("COLUMNS", str(columns))
        print_comparison(made, [Path("x/comparison.md")])
        said = capsys.readouterr().out
        assert ("row against column: + better, - worse" in said) == fits


# --- as a user types it


def test_command_says_first_that_nothing_is_better_and_json_is_one_value(tmp_path: Path) -> None:
    arguments = ["digits", "--strategies", "fomaml", "--seeds", "2", "--rounds", "1",
                 "--set", "task.test_clients=8", "--out", "c"]  # fmt: skip
    done = fedmaml("compare", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "c" / "comparison.json").read_text())["headline"]
    assert "No meta-learning strategy is significantly better than fine-tuned FedAvg." in first
    shown = " ".join(done.stdout[: done.stdout.index("digits · accuracy")].split())
    assert shown == first  # wrapped by the terminal
    assert "8/8" in done.stderr
    assert "Report: c/report.html" in done.stdout
    page = (tmp_path / "c" / "report.html").read_text()
    assert first in page
    assert (tmp_path / "c" / "figures" / "differences.png").exists()
    files = {name: (tmp_path / "c" / name).read_bytes() for name in FILES}
    again = fedmaml("compare", *arguments, "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == json.loads(files["comparison.json"])
    assert again.stderr == ""
    assert {name: (tmp_path / "c" / name).read_bytes() for name in FILES} == files
    assert (tmp_path / "c" / "report.html").read_text() == page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--strategies", "mamal"], "did you mean 'maml'"),
        (["digits", "--strategies", "maml", "--seeds", "0"], "seeds = 0"),
        (["digits", "--strategies", "maml", "--set", "lr=1"], "unknown key 'lr'"),
        (["digits", "--strategies", "maml", "--equal", "byte"], "equal = 'byte': allowed: reci"),
        (["digits", "--strategies", "maml", "--tune", "0"], "tune = 0: allowed: 1 or more trials"),
        (["digits"], "strategies"),
    ],
)
def test_mistakes_end_as_one_clear_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = fedmaml("compare", *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.slow
def test_interrupted_comparison_ends_cleanly_and_goes_on(tmp_path: Path) -> None:
    arguments = ["digits", "--strategies", "fomaml", "--seeds", "1", "--out", "c",
                 "--set", "task.test_clients=8"]  # fmt: skip
    command = [*COMMAND, "compare", *arguments, "--rounds", "5000"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as popen:
        deadline = time.monotonic() + 60
        started = tmp_path / "c" / "fedavg" / "seed0" / "rounds.jsonl"
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        popen.send_signal(signal.SIGINT)
        _, errors = popen.communicate(timeout=30)
    assert popen.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    local = tmp_path / "c" / "local" / "seed0" / "summary.json"
    stamp = local.stat().st_mtime_ns
    assert not (tmp_path / "c" / "comparison.md").exists()
    refused = fedmaml("compare", *arguments, "--rounds", "1", cwd=tmp_path)
    assert "fedavg/seed0 holds a run with other settings (rounds = 5000, now 1)" in refused.stderr
    assert fedmaml("compare", *arguments, "--rounds", "1", "--force", cwd=tmp_path).returncode == 0
    assert local.stat().st_mtime_ns == stamp
