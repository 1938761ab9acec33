"""Exit codes: one table, one page, and the same code whatever process an error came from."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from fedmaml import cli
from fedmaml.config import resolve
from fedmaml.core import interrupts
from fedmaml.core.errors import (
    BackendError,
    ConfigurationError,
    DiskError,
    DivergedError,
    FedmamlError,
    QuorumError,
    RunDirectoryError,
)
from fedmaml.core.exit_codes import CODES, exit_code_of
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.backends import in_process
from tests.conftest import ROOT


def test_the_page_lists_every_code_with_its_meaning() -> None:
    lines = (ROOT / "docs" / "exit-codes.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line][2:]
    meanings = {code: meaning.partition(";")[0] for code, meaning in CODES.items()}
    assert {int(row[0]): row[1] for row in rows} == meanings
    assert all(len(row) == 4 and (row[3] or row[0] == "0") for row in rows)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("x"), 1),
        (BackendError("x"), 1),
        (DivergedError("x"), 3),
        (QuorumError("x"), 4),
        (DiskError("x"), 5),
        (ValueError("x"), 1),
        (OSError("x"), 1),
    ],
)
def test_a_command_ends_with_the_code_of_its_error(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr(interrupts, "handle_signals", lambda: None)  # this process is pytest's
    monkeypatch.setattr(sys, "argv", ["fedmaml", "run"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code


@pytest.mark.parametrize("kind", [QuorumError, DiskError, DivergedError])
def test_an_error_of_the_server_keeps_its_class_in_the_command(
    kind: type[FedmamlError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under Flower the ServerApp is another process, which leaves error.txt."""

    def run(_apps: object, run_config: dict[str, str], _nodes: int) -> NoReturn:
        RunDirectory(Path(run_config["out"])).fail(kind("round 3: too few"))
        raise BackendError("the Flower run ended as finished:failed")

    monkeypatch.setattr(in_process, "run", run)
    config = resolve({"scenario": "quadratic", "strategy": "maml", "rounds": 2})
    with pytest.raises(kind, match=r"^round 3: too few$"):
        execute(config, tmp_path / "x")
    assert RunDirectory(tmp_path / "x").failure() == "round 3: too few"


@pytest.mark.parametrize("error", [BackendError("Gone: away"), ValueError("QuorumError")])
def test_other_errors_are_kept_as_texts(error: Exception, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.fail(error)
    assert directory.error() is None
    assert str(error) in directory.failure()


Serve = Callable[[Path], None]


@pytest.fixture
def serve() -> Serve:
    def served(out: Path) -> None:
        config = resolve({"scenario": "quadratic", "strategy": "maml", "rounds": 2})
        with RunDirectory(out).served(config, ""):
            pass

    return served


def test_a_run_config_names_folders_only_where_the_operator_allows(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDMAML_RUNS")
    for out in (Path("runs/a"), Path("runs/b/../c")):
        serve(out)
        assert (out / "config.toml").exists()
    (tmp_path / "runs" / "link").symlink_to(tmp_path)
    for out in (Path("x"), Path("runs/../x"), tmp_path / "y", Path("runs/link/z"), Path("/")):
        with pytest.raises(FedmamlError, match=r"folders in .*/runs only, .* FEDMAML_RUNS"):
            serve(out)
    monkeypatch.setenv("FEDMAML_RUNS", str(tmp_path))
    serve(tmp_path / "y")


def test_a_config_of_somebody_else_is_never_replaced(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMAML_RUNS", str(tmp_path))
    (tmp_path / "x").mkdir()
    theirs = tmp_path / "x" / "config.toml"
    theirs.write_text('[superlink]\ndefault = "mine"\n')
    with pytest.raises(FedmamlError, match=r"holds a run already \(config\.toml\)"):
        serve(tmp_path / "x")
    assert theirs.read_text() == '[superlink]\ndefault = "mine"\n'
    serve(tmp_path / "z")
    serve(tmp_path / "z")  # the same run, started by Flower once more


def test_a_full_disk_has_its_exit_code_whoever_found_it() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "ca.key")
    assert exit_code_of(full) == 5
    of_folder = RunDirectoryError("cannot write to runs")
    of_folder.__cause__ = full
    assert exit_code_of(of_folder) == 5
    assert exit_code_of(OSError(errno.EACCES, "Permission denied", "ca.key")) == 1
