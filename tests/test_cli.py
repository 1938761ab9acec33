"""The commands as a user types them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmaml.runs.directory import RunDirectory
from tests.commands import COMMAND, fedmaml, fedmaml_process

FAST = ["--rounds", "3", "--set", "task.test_clients=8"]


def test_help_names_all_commands(tmp_path: Path) -> None:
    done = fedmaml("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("list", "run", "estimate", "compare", "report", "audit", "clock", "show"):
        assert command in done.stdout


def test_help_imports_neither_torch_nor_flower(tmp_path: Path) -> None:
    program = "import sys, fedmaml.cli; print('torch' in sys.modules, 'flwr' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_list_as_json_has_everything(tmp_path: Path) -> None:
    listed = json.loads(fedmaml("list", "--json", cwd=tmp_path).stdout)
    assert set(listed) == {"scenarios", "strategies", "backends", "engines", "profiles"}
    assert len(listed["strategies"]) >= 9
    assert all(about for entries in listed.values() for about in entries.values())


def test_estimate_takes_what_run_takes_and_writes_nothing(tmp_path: Path) -> None:
    arguments = ("digits", "--strategy", "fomaml", *FAST, "--nodes", "2")
    shown = json.loads(fedmaml("estimate", *arguments, "--json", cwd=tmp_path).stdout)
    assert (shown["scenario"], shown["strategy"], shown["rounds"]) == ("digits", "fomaml", 3)
    assert shown["training"]["flops"] == 3 * shown["per_round"]["flops"] > 0
    assert shown["evaluation"]["clients"] == 8
    assert shown["seconds"]["total"] > 0
    assert list(tmp_path.iterdir()) == []


def test_run_leaves_a_complete_directory_that_show_reads(tmp_path: Path) -> None:
    arguments = ["run", "digits", "--strategy", "fomaml", *FAST, "--out", "one"]
    done = fedmaml_process(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert files - {".command.lock", ".server.lock", "journal.previous.safetensors"} == {
        "config.toml", "audit.json", "references.json", "rounds.jsonl", "theta.safetensors",
        "journal.safetensors", "clients.jsonl", "summary.json",
    }  # fmt: skip
    assert len((tmp_path / "one" / "rounds.jsonl").read_text().splitlines()) == 3
    shown = json.loads(fedmaml("show", "one", "--json", cwd=tmp_path).stdout)
    assert set(shown) >= {
        "scenario", "strategy", "seed", "rounds", "backend", "nodes", "clients_train",
        "clients_test", "metric", "theta_sha256", "rejected_replies", "seconds", "versions",
    }  # fmt: skip
    assert set(shown["metric"]) >= {"name", "unit", "better", "before", "after", "ci95"}


def test_run_again_from_its_own_configuration_gives_the_same_bits(tmp_path: Path) -> None:
    first = json.loads(
        fedmaml("run", "digits", *FAST, "--seed", "4", "--out", "a", "--json", cwd=tmp_path).stdout
    )
    again = json.loads(
        fedmaml("run", "--config", "a/config.toml", "--out", "b", "--json", cwd=tmp_path).stdout
    )
    assert again["theta_sha256"] == first["theta_sha256"]
    assert again["metric"] == first["metric"]


def test_json_is_one_object_and_nothing_else(tmp_path: Path) -> None:
    done = fedmaml("run", "quadratic", "--rounds", "2", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["distance_to_closed_form"] > 0
    assert len(done.stdout.splitlines()) == 1


def test_run_directory_is_not_overwritten_unless_forced(tmp_path: Path) -> None:
    arguments = ["run", "quadratic", "--rounds", "1", "--out", "x"]
    assert fedmaml(*arguments, cwd=tmp_path).returncode == 0
    refused = fedmaml(*arguments, cwd=tmp_path)
    assert refused.returncode == 1
    assert "holds a run already" in refused.stderr
    assert "--force" in refused.stderr
    assert fedmaml(*arguments, "--force", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere"], "nowhere holds no run: it does not exist"),
        (["list", "strategy"], "cannot list 'strategy'"),
        (["run"], "no scenario given; known: quadratic, "),
        (["run", "digits", "--round", "3"], "No such option"),
        (["check-gradients", "--strategy", "mamal"], "no strategy 'mamal'"),
        (["run", "digits", "--out", "/proc/nope"], "cannot write to /proc/nope"),
        (["run", "hospitals", "--data-dir", "empty"], "heart_disease/processed.cleveland.data"),
        (["run", "digits", "--data-dir", "nowhere"], "has no effect: scenario 'digits' reads no"),
        (
            ["run", "digits", "--set", "scenario=sinusoid"],
            "scenario is given twice: 'digits' (scenario) and 'sinusoid' (--set scenario=...)",
        ),
        (
            ["run", "digits", "--client-batch", "3", "--set", "client_batch=4"],
            "client_batch is given twice: 3 (--client-batch) and 4 (--set client_batch=...)",
        ),
        (["run", "digits", "--set", "inner.lr=nan"], "inner.lr = nan: input should be a finite"),
        (["run", "digits", "--out", ""], "'--out': it is empty; name a folder, e.g. runs/first"),
        (["compare", "digits", "--strategies", "maml", "--out", " "], "'--out': it is empty; name"),
        (["report", "x", "--out", ""], "'--out': it is empty; name a folder"),
        (
            ["export", "x", "--to", "tensorboard", "--out", ""],
            "'--out': it is empty; name a folder",
        ),
    ],
)
def test_mistakes_end_as_one_clear_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = fedmaml(*arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["show"], ["clock"], ["export", "--to", "tensorboard"]])
def test_a_folder_of_runs_is_said_to_be_one_and_what_to_do_with_it(
    command: list[str], tmp_path: Path
) -> None:
    for number in range(2):
        run = tmp_path / "c" / "fedavg" / f"seed{number}"
        run.mkdir(parents=True)
        (run / "config.toml").touch()
    refused = fedmaml(*command, "c", cwd=tmp_path).stderr
    assert "c is a folder of 2 runs and no run itself: name one, e.g. c/fedavg/seed0" in refused
    assert "or all of them, c/*/seed*" in refused
    (tmp_path / "c" / "comparison.json").touch()
    refused = fedmaml(*command, "c", cwd=tmp_path).stderr
    assert "c is a comparison of 2 runs" in refused
    assert "what it found is in c/comparison.md" in refused
    assert "`fedmaml report c`" in refused
    assert "of its runs name one, e.g. c/fedavg/seed0, or all of them, c/*/seed*" in refused


def test_a_damaged_configuration_comes_with_a_cure(tmp_path: Path) -> None:
    arguments = ["run", "quadratic", "--rounds", "1", "--out", "x"]
    fedmaml(*arguments, cwd=tmp_path)
    (tmp_path / "x" / "config.toml").write_text("rounds = [")
    refused = fedmaml("show", "x", cwd=tmp_path).stderr
    assert "x/config.toml is damaged (" in refused
    assert "put it back from a copy, or repeat the command that made it with --force" in refused
    assert fedmaml(*arguments, "--force", cwd=tmp_path).returncode == 0
    assert fedmaml("show", "x", cwd=tmp_path).returncode == 0


def test_show_names_what_is_missing_of_a_run_cut_short(tmp_path: Path) -> None:
    fedmaml("run", "quadratic", "--rounds", "3", "--out", "x", cwd=tmp_path)
    (tmp_path / "x" / "summary.json").unlink()
    records = (tmp_path / "x" / "rounds.jsonl").read_text()
    (tmp_path / "x" / "rounds.jsonl").write_text(records[:-20])
    done = fedmaml("show", "x", cwd=tmp_path)
    assert "x is not complete: there is no summary.json, and rounds.jsonl has 2 of 3" in done.stderr


def test_run_says_which_engine_computes_unless_it_must_be_quiet(tmp_path: Path) -> None:
    arguments = ["run", "digits", "--strategy", "protonet", *FAST]
    reported = fedmaml(*arguments, "--out", "reported", cwd=tmp_path)
    assert "engine shared: no fast weights" in reported.stderr
    assert "; not fused or factored: " in reported.stderr
    quiet = fedmaml(*arguments, "--out", "quiet", "--json", cwd=tmp_path)
    assert quiet.stderr == ""


def test_workers_that_have_nothing_to_do_are_pointed_out(tmp_path: Path) -> None:
    arguments = ["run", "quadratic", *FAST[:2], "--workers", "200", "--json"]
    done = fedmaml_process(*arguments, cwd=tmp_path)
    assert "workers = 200: 200 processes share" in done.stderr
    assert "workers = 200 have nothing to share" in done.stderr
    assert json.loads(done.stdout)["workers"] == 200


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_a_signal_saves_the_run_and_says_how_to_go_on(number: int, tmp_path: Path) -> None:
    command = [*COMMAND, "run", "sinusoid", "--rounds", "100000", "--out", "x"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as popen:
        until((tmp_path / "x" / "rounds.jsonl").exists)
        popen.send_signal(number)
        _, errors = popen.communicate(timeout=60)
    assert popen.returncode == 128 + number
    state = RunDirectory(tmp_path / "x").newest_state().state
    assert state is not None
    assert len(RunDirectory(tmp_path / "x").rounds()) in (state.round, state.round + 1)
    assert errors.endswith(
        f"fedmaml: interrupted; {state.round} of 100000 rounds are kept in x; go on with: fedmaml "
        "run --resume x\n"
    )
    assert "Traceback" not in errors


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.02, 0.1, 0.3])
def test_a_second_signal_ends_at_once_without_a_traceback(pause: float, tmp_path: Path) -> None:
    command = [*COMMAND, "run", "sinusoid", "--rounds", "100000", "--out", "x", "--workers", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as popen:
        until((tmp_path / "x" / "rounds.jsonl").exists)
        popen.send_signal(signal.SIGINT)
        time.sleep(pause)
        popen.send_signal(signal.SIGINT)
        _, errors = popen.communicate(timeout=60)
    assert popen.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in errors
    assert RunDirectory(tmp_path / "x").newest_state()


def until(there: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not there() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_resume_takes_the_runs_own_configuration_and_folder(tmp_path: Path) -> None:
    run = ["run", "quadratic", "--strategy", "fomaml", "--rounds", "3", "--json"]
    assert fedmaml(*run, "--out", "x", cwd=tmp_path).returncode == 0
    for more, message in (
        ([], "the run in x is complete: fedmaml show x shows it"),
        (["--rounds", "9"], "with the configuration of the run in x; leave out --rounds"),
        (["--out", "y"], "goes on in its own folder: leave out --out and --force"),
        (["--force"], "goes on in its own folder: leave out --out and --force"),
    ):
        done = fedmaml("run", "--resume", "x", *more, cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stderr
    done = fedmaml("run", "--resume", "nothing", cwd=tmp_path)
    assert "nothing holds no run: it does not exist" in done.stderr
    shown = fedmaml("show", "x", "--verify", cwd=tmp_path)
    assert shown.stdout.startswith("x: 3 lines of rounds.jsonl follow from each other and from")
    (tmp_path / "x" / "summary.json").unlink()
    assert "resumed after round 3" in fedmaml("show", "x", "--verify", cwd=tmp_path).stdout
    done = fedmaml("run", "--resume", "x", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["resumed_after"] == [3]
    lines = (tmp_path / "x" / "rounds.jsonl").read_text()
    (tmp_path / "x" / "rounds.jsonl").write_text(lines.replace('"round": 2', '"round": 7'))
    shown = fedmaml("show", "x", "--verify", cwd=tmp_path)
    assert (shown.returncode, "line 3 of" in shown.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["report", "x"], "no page was written or changed"),
        (["export", "x", "--to", "tensorboard"], "with --force to replace it by all of it"),
        (["clock", "x"], "nothing was written; repeat the command"),
        (["run", "digits"], "nothing was written; repeat the command"),
        (["compare", "digits", "--strategies", "maml"], "the same command goes on with what is"),
    ],
)
def test_interrupt_says_what_each_command_keeps(
    arguments: list[str], kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedmaml.config.resolve", interrupted)
    for name in ("running.execute", "report.write_report", "clock.profiles.profiles",
                 "exporting.recorded",
                 "comparison.planning.plan"):  # fmt: skip
        monkeypatch.setattr(f"fedmaml.{name}", interrupted)
    done = fedmaml(*arguments, cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr.startswith("fedmaml: interrupted; ")
    assert kept in done.stderr
    assert done.stderr.count("interrupted") == 1


def test_interrupt_amid_the_audit_says_that_the_folder_holds_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedmaml.running.audit_data", interrupted)
    done = fedmaml("run", "digits", "--out", "x", cwd=tmp_path)
    assert done.returncode == 130
    assert "0 of 150 rounds are kept in x; go on with: fedmaml run --resume x" in done.stderr
    assert "nothing was written" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clock", "x", "--target", "nan"], "--target nan: give a number that can be reached"),
        (["clock", "x", "--target", "inf"], "--target inf: give a number that can be reached"),
        (
            ["export", "x", "--to", "tensorboard", "--out", "file"],
            "--out file: file is a file; give a folder, or a new name",
        ),
        (
            ["export", "x", "--to", "tensorboard", "--out", "file/below"],
            "--out file/below: file is a file; give a folder",
        ),
    ],
)
def test_what_an_option_cannot_be_is_said_before_anything_is_read(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    done = fedmaml(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_check_gradients_lists_every_strategy(tmp_path: Path) -> None:
    done = fedmaml("check-gradients", "--json", cwd=tmp_path)
    assert done.returncode == 0
    results = json.loads(done.stdout)
    assert len({result["strategy"] for result in results}) >= 9
    assert all(set(result) == {"strategy", "reference", "relative_error"} for result in results)
