"""Run directories of any origin, compared."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fedmaml.comparison.comparing import compare, run_all
from fedmaml.comparison.conclusions import conclude, group
from fedmaml.comparison.planning import plan
from fedmaml.core.errors import NotComparableError, RunDirectoryError
from fedmaml.runs.completeness import complete_summary
from fedmaml.runs.directory import RunDirectory

SMALL = {"task.test_clients": 6, "task.train_clients": 20, "mu": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of four strategies; tests copy what they change."""
    out = tmp_path_factory.mktemp("comparison")
    run_all(plan("digits", ["fomaml", "fedprox"], 2, [SMALL], 1), out)
    return out


def runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/*/config.toml"))


def test_trials_of_tuning_are_no_runs_to_compare(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "fomaml" / "seed1" / "config.toml"
    path.write_text(path.read_text().replace('split = "test"', 'split = "validation"'))
    with pytest.raises(
        NotComparableError, match="fomaml/seed1 was evaluated on validation clients"
    ):
        conclude(group(runs_in(tmp_path)))


def test_directories_alone_give_what_compare_gives(folder: Path) -> None:
    planned = plan("digits", ["fedprox", "fomaml"], 2, [SMALL], 1)
    found = group(reversed(runs_in(folder)))
    assert list(found) == ["local", "fedavg", "fedadam", "fedprox", "fomaml"]
    assert all(list(seeds) == [0, 1] for seeds in found.values())
    ours, theirs = conclude(found), compare(planned, folder)
    assert ours.notes == theirs.notes[2:]  # compare knows its budget, directories do not record it
    assert ours == replace(theirs, notes=ours.notes, equal="")
    # TOML moves mu before the tables; the order in which FedProx declares it is kept.
    assert list(ours.settings["fedprox"])[-1] == "mu"


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("fedavg/*", "no run of fedavg, with which every strategy is compared; there are local,"),
        ("fomaml/seed1", "fomaml has seed 0, fedavg has seeds 0, 1: .* runs of the same seeds"),
    ],
)
def test_what_has_no_counterpart_is_not_compared(folder: Path, left_out, message) -> None:
    kept = [path for path in runs_in(folder) if not path.match(left_out)]
    with pytest.raises(NotComparableError, match=message):
        conclude(group(kept))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cross = 0.3", "cross = 0.1", r"different problems \(task.cross = 0.1 and 0.3\)"),
        ('"digits"', '"sinusoid"', r"different problems \(scenario = 'sinusoid' and 'digits'\)"),
        ("steps = 5", "steps = 6", r"runs of fomaml with different settings \(inner.steps = 6"),
    ],
)
def test_other_tasks_and_settings_are_not_compared(
    folder: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "fomaml" / "seed1" / "config.toml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(NotComparableError, match=message):
        conclude(group(runs_in(tmp_path)))


def test_the_same_run_twice_is_not_compared(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "fomaml" / "seed0", tmp_path / "copy")
    with pytest.raises(NotComparableError, match=r"both hold fomaml, seed 0: .*leave one out"):
        group([*runs_in(folder), copy])


@pytest.mark.parametrize("text", ['scenario = "digits"', "x = 1", 'scenario = "a"\nstrategy = "b"'])
def test_a_file_that_configures_something_else_is_no_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"config.toml is not the configuration of a run"):
        group([tmp_path])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", None, "no summary.json, and rounds.jsonl has 1 of 1 rounds"),
        ("rounds.jsonl", "", "rounds.jsonl has 0 of 1 lines"),
        ("clients.jsonl", '{"client": 80}\n{"cli', "clients.jsonl has 1 of 6 lines"),
    ],
)
def test_a_run_cut_short_names_the_file_and_how_to_finish_it(
    folder: Path, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    run = shutil.copytree(folder / "fomaml" / "seed0", tmp_path / "run")
    (run / name).unlink() if text is None else (run / name).write_text(text)
    command = f"fedmaml run --config {run / 'config.toml'} --out {run} --force"
    with pytest.raises(RunDirectoryError, match=message) as error:
        complete_summary(RunDirectory(run))
    assert re.search(re.escape(command), str(error.value))
