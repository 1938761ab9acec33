"""A strategy that diverges is reported everywhere, and the others are compared."""

import csv
import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from fedmaml.comparison.comparing import compare, run_all
from fedmaml.comparison.conclusions import conclude
from fedmaml.comparison.diverging import found, rows
from fedmaml.comparison.planning import Plan, plan
from fedmaml.comparison.tables import as_csv, as_latex, as_markdown, pairs_as_csv
from fedmaml.comparison.verdicts import Metric, compare_pairs, evaluate
from fedmaml.core.errors import DivergedError
from fedmaml.quantities import number
from fedmaml.report import write_report
from fedmaml.report.page import headline
from fedmaml.report.reading import read
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.outcome import diverged_from, has_diverged
from tests.commands import fedmaml

SIZE = {"task.train_clients": 6, "task.validation_clients": 2, "task.test_clients": 5, "clients": 3}
TOO_LARGE = 1e30


def small(*strategies: str, scenario: str = "sinusoid", seeds: int = 2, **given: float) -> Plan:
    layer = {key.replace("__", "."): value for key, value in given.items()}
    return plan(scenario, strategies, seeds, [SIZE, layer], 2)


@pytest.fixture(scope="module")
def one_lost(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """FedProx, alone in knowing mu, diverges in every round."""
    planned, out = small("fomaml", "fedprox", mu=TOO_LARGE), tmp_path_factory.mktemp("lost")
    run_all(planned, out)
    return planned, out


def test_a_strategy_that_diverges_is_a_row_and_the_others_are_evaluated_as_without_it(
    one_lost, tmp_path: Path
) -> None:
    planned, out = one_lost
    made = compare(planned, out)
    evaluated = {row.strategy: row for row in made.rows}
    assert list(evaluated) == ["local", "fedavg", "fedadam", "fomaml", "fedprox"]
    lost = evaluated["fedprox"]
    assert lost.verdict == "diverged"
    assert {lost.before, lost.after, lost.difference, lost.difference_ci95, lost.p_holm} == {None}
    assert lost.sentence == (
        "FedProx diverged: with seeds 0, 1 no client's update of any round could be used, all were "
        "infinite or too large; lower mu (now 1e+30) or inner.lr (now 0.01)."
    )
    assert " Diverged: FedProx." in made.headline
    assert made.notes[0] == (
        "mu = 1e+30 was set for all strategies that know it, and FedProx diverged; without it each "
        "takes its recipe's own."
    )
    without = small("fomaml")
    run_all(without, tmp_path)
    alone = compare(without, tmp_path)
    assert [row for row in made.rows if row is not lost] == [*alone.rows]
    assert [pair for pair in made.pairs if "fedprox" not in (pair.first, pair.second)] == [
        *alone.pairs
    ]


def test_whoever_trained_with_fewer_updates_is_named(one_lost, tmp_path: Path) -> None:
    planned, out = one_lost
    copy = shutil.copytree(out, tmp_path / "copy")
    summary = RunDirectory(copy / "fomaml" / "seed0").summary()
    assert summary is not None
    used = summary["updates_used"]
    for left, said in ((used, False), (used - 1, True)):
        reported = summary | {"updates_used": left}
        (copy / "fomaml" / "seed0" / "summary.json").write_text(json.dumps(reported))
        notes = compare(planned, copy).notes
        wanted = f"FOMAML trained with {2 * used - 1} of {2 * used} updates"
        assert any(note.startswith(wanted) for note in notes) is said


def test_nobody_ties_with_what_diverged_and_every_form_says_so(one_lost) -> None:
    planned, out = one_lost
    made = compare(planned, out)
    void = [pair for pair in made.pairs if pair.second == "fedprox"]
    assert [(pair.first, pair.verdict, pair.difference) for pair in void] == [
        ("local", "diverged", None), ("fedadam", "diverged", None), ("fomaml", "diverged", None),
    ]  # fmt: skip
    assert void[2].sentence == "FOMAML cannot be compared with FedProx: FedProx diverged."
    lines = {line["strategy"]: line for line in csv.DictReader(StringIO(as_csv(made)))}
    assert (lines["fedprox"]["verdict"], lines["fedprox"]["after"]) == ("diverged", "")
    assert ",fomaml,fedprox,,,,,,,diverged" in pairs_as_csv(made)
    assert "| FedProx | 2 | – | diverged | – | – | – |" in as_markdown(made)
    assert "| FedProx | ? | ? | ? | ? |  |" in as_markdown(made)
    assert "FedProx & 2 & -- & diverged" in as_latex(made)


@pytest.mark.slow
def test_a_report_shows_it_in_every_table_and_draws_no_value_of_it(
    one_lost, tmp_path: Path
) -> None:
    planned, out = one_lost
    page = write_report([out], tmp_path, compare(planned, out)).page.read_text()
    assert "✕ diverged" in page
    assert "FedProx diverged: with seeds 0, 1" in page
    untrained = RunDirectory(out / "fedprox" / "seed0").summary()
    assert untrained is not None  # how the model it began with was evaluated is no result
    assert f">{number(untrained['metric']['after'])}<" not in page
    row = page[page.index('<th scope="row">FedProx</th>', page.index("worst decile</th>")) :]
    cells = [cell.partition("</td>")[0].rpartition(">")[2] for cell in row.split("<td")[1:9]]
    assert cells == ["0", *["–"] * 6, "10"]
    lost = read([out]).runs["fedprox"]
    assert all(
        run.rounds and not any(record["evaluation"] for record in run.rounds) for run in lost
    )
    single = headline(read([out / "fedprox" / "seed0"]))
    assert single == "FedProx on sinusoid diverged: its updates could not be used."


def test_what_diverged_is_not_run_again(one_lost) -> None:
    planned, out = one_lost
    before = (out / "fedprox" / "seed0" / "summary.json").stat().st_mtime_ns
    run_all(planned, out)
    assert (out / "fedprox" / "seed0" / "summary.json").stat().st_mtime_ns == before


def test_if_the_reference_diverges_the_others_are_still_held_against_each_other(
    tmp_path: Path,
) -> None:
    planned = small("protonet", scenario="digits", inner__lr=TOO_LARGE, seeds=1)
    run_all(planned, tmp_path)
    made = compare(planned, tmp_path)
    assert {row.strategy: row.verdict for row in made.rows} == {
        "local": "not comparable", "fedavg": "diverged", "fedadam": "diverged",
        "protonet": "not comparable",
    }  # fmt: skip
    protonet = made.rows[3]
    evaluated = RunDirectory(tmp_path / "protonet" / "seed0").summary()
    assert evaluated is not None
    assert protonet.after == evaluated["metric"]["after"]
    assert protonet.sentence == (
        "ProtoNet cannot be compared with fine-tuned FedAvg, which diverged."
    )
    assert made.headline.startswith("Nothing can be compared with fine-tuned FedAvg, which")
    (pair,) = [pair for pair in made.pairs if "fedadam" not in (pair.first, pair.second)]
    assert pair.verdict == "one seed"
    assert "| ProtoNet | · | ? | ? |  |" in as_markdown(made)


def test_one_client_of_fedavg_that_diverges_takes_no_verdict_but_fedavgs() -> None:
    values = {
        "fedavg": [{0: np.inf, 1: 2.0, 2: 3.0}], "local": [{0: 1.0, 1: 2.0, 2: 4.0}],
        "maml": [{0: 2.0, 1: 3.0, 2: 5.0}], "reptile": [{0: 1.0, 1: np.inf, 2: 1.0}],
    }  # fmt: skip
    metric = Metric("mse", "1", "lower")
    evaluated = evaluate(metric, dict.fromkeys(values, 1), values, values)
    assert [row.verdict for row in evaluated] == [
        "diverged", "not comparable", "not comparable", "diverged",
    ]  # fmt: skip
    assert evaluated[0].sentence == (
        "FedAvg diverged at a test client, so nothing can be compared with it; lower the "
        "learning rate of its adaptation."
    )
    assert evaluated[2].sentence == (
        "MAML cannot be compared with fine-tuned FedAvg, which diverged at a test client."
    )
    assert [row.after for row in evaluated] == pytest.approx([None, 7 / 3, 10 / 3, None])
    assert {(row.difference, row.p_clients, row.p_holm) for row in evaluated} == {
        (None, None, None)
    }


def test_if_fedavg_diverges_at_one_client_the_command_names_fedavg_and_nobody_finite(
    one_lost, tmp_path: Path
) -> None:
    shutil.copytree(one_lost[1], tmp_path / "c")
    path = tmp_path / "c" / "fedavg" / "seed0" / "clients.jsonl"
    first, *others = map(json.loads, path.read_text().splitlines())
    lines = [first | {"mse:after": "diverged"}, *others]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["compare", "sinusoid", "--seeds", "2", "--rounds", "2", "--out", "c", "--set"]
    arguments += [f"mu={TOO_LARGE}", *(f"--set={key}={value}" for key, value in SIZE.items())]
    done = fedmaml(*arguments, "--strategies", "fomaml,fedprox", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        "fedmaml: FedAvg, FedProx diverged; the sentences above name what to "
    )
    written = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert written["headline"] == (
        "Nothing can be compared with fine-tuned FedAvg, which diverged. Diverged: FedAvg, FedProx."
    )
    assert {row["strategy"]: row["verdict"] for row in written["rows"]} == {
        "local": "not comparable", "fedavg": "diverged", "fedadam": "not comparable",
        "fomaml": "not comparable", "fedprox": "diverged",
    }  # fmt: skip
    reported = {(pair["first"], pair["second"]): pair["verdict"] for pair in written["pairs"]}
    assert reported["local", "fomaml"] in ("better", "worse", "not distinguishable")


def test_a_strategy_that_diverges_at_a_client_is_called_so_though_fedavg_did_everywhere() -> None:
    after = {"fedavg": [{0: 1.0, 1: 1.0}], "maml": [{0: np.inf, 1: 2.0}], "local": [{0: 1.0}]}
    lost = {"fedavg": "fedavg diverged."}
    made = rows(Metric("mse", "1", "lower"), dict.fromkeys(after, 1), after, after, lost)
    assert [row.verdict for row in made] == ["diverged", "diverged", "not comparable"]
    assert made[1].sentence.startswith("MAML diverged at a test client, and so did fine-tuned FedA")


def test_the_headline_calls_meta_learning_only_what_is(one_lost, tmp_path: Path) -> None:
    shutil.copytree(one_lost[1], tmp_path, dirs_exist_ok=True)
    runs = {name: {0: tmp_path / name / "seed0"} for name in one_lost[0].runs}
    path = runs["fomaml"][0] / "clients.jsonl"
    lines = [json.loads(line) | {"mse:after": "diverged"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert conclude(runs).headline == (
        "Every meta-learning strategy diverged: FOMAML. So did FedProx."
    )
    del runs["fedprox"]
    assert conclude(runs).headline == "Every meta-learning strategy diverged: FOMAML."


def test_one_diverged_seed_of_two_is_enough(one_lost, tmp_path: Path) -> None:
    planned, out = one_lost
    runs = {name: {0: out / name / "seed0"} for name in planned.runs}
    good = small("fedprox", seeds=2)
    run_all(Plan({"fedprox": good.runs["fedprox"]}, good.budget), tmp_path)
    assert not has_diverged(RunDirectory(tmp_path / "fedprox" / "seed1"))
    tables = {name: [RunDirectory(path).config_table() for path in seeds.values()]
              for name, seeds in runs.items()}  # fmt: skip
    both = runs | {"fedprox": {0: out / "fedprox/seed0", 1: tmp_path / "fedprox/seed1"}}
    after = {name: [{0: 1.0}] for name in runs}
    (sentence,) = found(both, tables, after).values()
    assert sentence.startswith("FedProx diverged: with seed 0 no client's update")


def test_two_that_diverge_at_the_same_client_are_no_tie() -> None:
    values = {
        "fedavg": [{0: np.inf, 1: 2.0}], "maml": [{0: np.inf, 1: 2.0}], "fomaml": [{0: np.inf}],
    }  # fmt: skip
    metric = Metric("mse", "1", "lower")
    evaluated = evaluate(metric, dict.fromkeys(values, 1), values, values)
    assert [row.verdict for row in evaluated] == ["diverged", "diverged", "diverged"]
    (pair,) = compare_pairs(metric, values)
    assert pair.verdict == "diverged"


def test_adaptation_that_diverges_at_every_client_names_its_own_rate(tmp_path: Path) -> None:
    planned = small("fomaml", adaptation__lr=TOO_LARGE, seeds=1)
    run_all(planned, tmp_path)
    made = compare(planned, tmp_path)
    assert made.rows[1].sentence == (
        "FedAvg diverged at every test client while it adapted; lower adaptation.lr (now 1e+30)."
    )


def test_a_run_says_what_to_lower_and_only_divergence_is_called_so(tmp_path: Path) -> None:
    config = small("fomaml", inner__lr=TOO_LARGE).runs["fomaml"][0]
    with pytest.raises(DivergedError, match=r"training diverged: in 2 rounds .* \(now 1e\+30\)"):
        execute(config, tmp_path / "x")
    rounds = tmp_path / "x" / "rounds.jsonl"
    assert has_diverged(RunDirectory(tmp_path / "x"))
    rounds.write_text(rounds.read_text().replace('"NONFINITE"', '"RAISED"', 1))
    assert not has_diverged(RunDirectory(tmp_path / "x"))  # something else went wrong, too


def test_training_that_diverges_after_a_round_that_was_used_has_diverged(tmp_path: Path) -> None:
    config = small("fomaml", outer__lr=TOO_LARGE).runs["fomaml"][0]
    config = replace(config, rounds=4)
    with pytest.raises(DivergedError, match=r"from round 2 on .* outer\.lr \(now 1e\+30\)"):
        execute(config, tmp_path / "x")
    directory = RunDirectory(tmp_path / "x")
    assert diverged_from(directory) == 2
    assert len(directory.rounds()) == 4
    best = directory.summary()
    assert best is not None
    (directory.path / "summary.json").write_text(json.dumps(best | {"evaluated_round": 0}))
    assert diverged_from(directory) == 0  # what was evaluated is from before


def test_the_command_ends_with_3_and_says_who_diverged(tmp_path: Path) -> None:
    arguments = ["compare", "sinusoid", "--seeds", "1", "--rounds", "1", "--out", "c"]
    arguments += [part for key, value in SIZE.items() for part in ("--set", f"{key}={value}")]
    done = fedmaml(*arguments, "--strategies", "fedprox", "--set", "mu=1e30", cwd=tmp_path)
    assert done.returncode == 3
    assert "compared with fine-tuned FedAvg. Diverged: FedProx." in " ".join(done.stdout.split())
    assert done.stderr.splitlines()[-1] == (
        "fedmaml: FedProx diverged; the sentences above name what to lower"
    )
    written = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert written["rows"][3]["verdict"] == "diverged"


def test_if_all_that_train_diverge_the_command_says_so_and_what_to_lower(tmp_path: Path) -> None:
    arguments = ["compare", "sinusoid", "--seeds", "1", "--rounds", "1", "--strategies", "fomaml",
                 "--set", "inner.lr=1e30"]  # fmt: skip
    done = fedmaml(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "every strategy that trains diverged, so that there is nothing to compare" in done.stderr
    assert "lower inner.lr (now 1e+30)" in done.stderr
    assert "Settings that were made for all (--set, --config) reach every strategy" in done.stderr
