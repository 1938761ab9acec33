"""Damaged run folders: every command that reads them names the file, what is wrong, what to do."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmaml.comparison.reuse import is_complete
from fedmaml.config import resolve
from fedmaml.core.errors import RunDirectoryError
from fedmaml.running import execute
from fedmaml.runs.completeness import complete_summary
from fedmaml.runs.directory import RunDirectory
from tests.commands import fedmaml

COMMANDS = {
    "show": ["show"],
    "clock": ["clock", "--profile", "4g-phone"],
    "export": ["export", "--to", "tensorboard", "--out", "EXPORTED"],
    "report": ["report", "--out", "PAGE.html"],
}
CONFIG = resolve(
    {
        "scenario": "digits", "strategy": "fomaml", "rounds": 3, "clients": 0,
        "evaluation.every": 1, "task.train_clients": 4, "task.validation_clients": 2,
        "task.test_clients": 3,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run; tests copy it."""
    out = tmp_path_factory.mktemp("damaged") / "run"
    execute(CONFIG, out)
    return out


def summary_without(*path: str | int) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        summary = json.loads((run / "summary.json").read_text())
        part: Any = summary
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]
        (run / "summary.json").write_text(json.dumps(summary))

    return damage


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        text = (run / name).read_text()
        assert re.search(old, text)
        (run / name).write_text(re.sub(old, new, text, count=1))

    return damage


def second_line(text: str, name: str = "rounds.jsonl") -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        lines = (run / name).read_text().splitlines()
        lines[1] = text
        (run / name).write_text("\n".join(lines) + "\n")

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no cost": (summary_without("cost"), r"summary.json in \S+ is damaged \(cost is missing\)"),
    "no metric": (summary_without("metric"), r"summary.json in .* \(metric is missing\)"),
    "no total": (
        summary_without("cost", "totals", "flops"),
        r"summary.json in .* \(cost.totals lacks flops\)",
    ),
    "text for a number": (
        replaced("summary.json", r'"after": [\d.]+', '"after": "high"'),
        r"summary.json in .* \(metric.after: input should be a valid number, not 'high'\)",
    ),
    "text for a count": (
        replaced("summary.json", r'"rounds": 3', '"rounds": "3"'),
        r"summary.json in .* \(rounds: input should be a valid integer, not '3'\)",
    ),
    "a list for a summary": (
        replaced("summary.json", r"(?s).*", "[1, 2]"),
        r"summary.json in .* \(not a run's summary\)",
    ),
    "a round that is a list": (
        second_line("[1, 2]"),
        r"line 2 of rounds.jsonl in .* \(input should be an object, not \[1, 2\]\)",
    ),
    "a round that is no JSON": (
        second_line('{"round": 2, "coh'),
        r"line 2 of rounds.jsonl in .* \(invalid JSON: EOF while parsing",
    ),
    "a round without cost": (
        second_line('{"round": 2}'),
        r"line 2 of rounds.jsonl in .* \(cohort is missing\)",
    ),
    "text for a round's number": (
        replaced("rounds.jsonl", r'"seconds": [\d.e-]+', '"seconds": "soon"'),
        r"line 1 of rounds.jsonl in .* \(seconds: input should be a valid number, not 'soon'\)",
    ),
    "text for a client's value": (
        replaced("clients.jsonl", r'"accuracy:after": [\d.]+', '"accuracy:after": "good"'),
        r"line 1 of clients.jsonl in .*accuracy:after: input should be a valid number, not 'good'",
    ),
    "a client that is a list": (
        second_line("[]", "clients.jsonl"),
        r"line 2 of clients.jsonl in .* \(input should be an object, not \[\]\)",
    ),
    "fewer rounds than there were": (
        replaced("rounds.jsonl", r"\n[^\n]*\n$", "\n"),
        r"is not complete: rounds.jsonl has 2 of 3 lines",
    ),
    "a last round cut short": (
        replaced("rounds.jsonl", r".{20}\n$", ""),
        r"is not complete: rounds.jsonl has 2 of 3 lines",
    ),
    "a reference without a mean": (
        summary_without("references", 0, "metrics", 0, "mean"),
        r"summary.json in .* \(references.0.metrics.0.mean is missing\)",
    ),
    "text for the seed": (
        replaced("config.toml", "seed = 0", 'seed = "x"'),
        r"config.toml is not the configuration of a run \(seed: input should be a valid integer, "
        "not 'x'\\): put it back from a copy",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_named_with_what_is_wrong_and_what_to_do(
    damage: str, command: str, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    spoil, message = DAMAGES[damage]
    spoil(tmp_path / "run")
    done = fedmaml(*COMMANDS[command], "run", cwd=tmp_path)  # a traceback would end this test
    assert done.returncode == 1
    assert re.search(rf"fedmaml: RunDirectoryError: .*{message}", done.stderr), done.stderr
    if damage != "text for the seed":
        again = "run it again: fedmaml run --config run/config.toml --out run --force"
        assert again in done.stderr
    assert not (tmp_path / "EXPORTED").exists()
    assert not (tmp_path / "PAGE.html").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_comparison_runs_a_damaged_run_again(damage: str, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    assert is_complete(CONFIG, run, force=False)
    DAMAGES[damage][0](run)
    if damage == "text for the seed":  # which run it was is not known: only if reported to
        with pytest.raises(RunDirectoryError, match="is not the configuration of a run"):
            is_complete(CONFIG, run, force=False)
    assert not is_complete(CONFIG, run, force=damage == "text for the seed")


def test_what_is_whole_is_read_and_what_is_not_known_is_let_pass(
    finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text()) | {"later": [1]}
    summary["metric"] |= {"after": None, "ci95": None}  # a client diverged
    (run / "summary.json").write_text(json.dumps(summary))
    clients = (run / "clients.jsonl").read_text().splitlines()
    clients[0] = '{"client": 8, "accuracy:after": "diverged", "accuracy:before": null}'
    (run / "clients.jsonl").write_text("\n".join(clients))  # an editor took the last newline
    assert complete_summary(RunDirectory(run)) == summary
    assert next(row["client"] for row in RunDirectory(run).clients()) == 8


def test_a_run_that_goes_on_is_read_up_to_the_line_that_is_being_written(
    finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    text = (run / "rounds.jsonl").read_text()
    for end in range(len(text) - 300, len(text) - 1, 50):
        (run / "rounds.jsonl").write_text(text[:end])
        assert [record["round"] for record in RunDirectory(run).rounds()] == [1, 2]
    (run / "rounds.jsonl").write_text(text[:-10] + "\n")
    with pytest.raises(RunDirectoryError, match=r"line 3 of rounds.jsonl .* is damaged"):
        RunDirectory(run).rounds()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replaced("references.json", r"(?s).*", "{}"), r"\(input should be a valid"),
        (replaced("references.json", r"(?s).{20}$", ""), r"\(invalid JSON"),
        (replaced("references.json", r'"oracle"', '"oracles"'), r"\(0.oracle is missing\)"),
        (replaced("references.json", r'"accuracy": [\d.]+', '"accuracy": "good"'), "not 'good'"),
    ],
)
def test_damaged_values_of_references_are_named(
    damage: Callable[[Path], None], message: str, finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (first, *_) = RunDirectory(run).references()
    assert first["name"] == "1-nearest neighbour"
    damage(run)
    with pytest.raises(RunDirectoryError, match=rf"references.json in .* {message}.*run it again"):
        RunDirectory(run).references()


def test_a_run_that_is_older_than_a_setting_had_its_default(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    path = run / "config.toml"
    text = path.read_text()
    path.write_text(text.replace("quorum_timeout = 600.0\n", ""))
    assert path.read_text() != text
    assert is_complete(CONFIG, run, force=False)
    assert not is_complete(replace(CONFIG, quorum_timeout=60.0), run, force=True)
