"""Processes that are kept going, and a run that is taken up until it ends."""

import json
import sys
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmaml.config import RunConfig, resolve, to_run_config
from fedmaml.core.errors import BackendError, RunDirectoryError
from fedmaml.provisioning import coordinating, supervising
from fedmaml.provisioning.coordinating import Federation, coordinate
from fedmaml.provisioning.coordinator_file import Coordinator
from fedmaml.provisioning.supervising import Service, supervise
from fedmaml.running import execute
from fedmaml.simulations.backends.flower_processes import environment_of, write_app
from fedmaml.simulations.backends.processes import workspace

SMALL = {"scenario": "quadratic", "strategy": "fomaml", "rounds": 2}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(coordinating, "PAUSE_SECONDS", 0.0)


def supervised(
    code: str, until: int, hindrance: Callable[[], str] = lambda: ""
) -> tuple[list[str], list[str]]:
    """Supervise a Python program until the log has a number of lines; return log and files."""
    said: list[str] = []
    stop = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if len(said) >= until:
            stop.set()

    with workspace() as space:
        service = Service(
            "ward", lambda: [sys.executable, "-S", "-c", code], environment_of(space, "ward"),
            lambda child: child.log.read_text().strip(), hindrance,
        )  # fmt: skip
        supervise(space, [service], stop, say)
        return said, sorted(path.name for path in (space.folder / "logs").iterdir())


def test_what_ends_is_started_again_with_longer_pauses() -> None:
    said, logs = supervised("print('full disk'); raise SystemExit(3)", 3)
    assert logs == ["ward-1.log", "ward-2.log", "ward-3.log"]
    assert said[0] == "ward ended (exit code 3); starting it again in 0.01 s: full disk"
    assert [line.split("again in ")[1].split()[0] for line in said] == ["0.01", "0.02", "0.04"]


def test_a_signal_is_named() -> None:
    said, _ = supervised("import os; os.kill(os.getpid(), 9)", 1)
    assert said[0].startswith("ward ended (signal 9)")


def test_a_hindrance_is_said_once_and_waited_for() -> None:
    hindrances = iter(["no way", "no way", "no way", "another way"])
    said, logs = supervised("raise SystemExit(1)", 3, lambda: next(hindrances, ""))
    assert said[:2] == ["ward waits: no way", "ward waits: another way"]
    assert said[2].startswith("ward ended (exit code 1)")
    assert logs == ["ward-1.log"]


# --- a run and its attempts -------------------------------------------------------------------


@pytest.fixture
def config() -> RunConfig:
    return resolve(SMALL)


def federation(folder: Path, said: list[str]) -> Federation:
    coordinator = Coordinator("h:1", "127.0.0.1:2", ("a",))
    return Federation(folder, coordinator, folder / "run", 1.0, said.append)


def test_a_run_goes_on_until_attempts_bring_nothing_new(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def attempt(_config: RunConfig, run_config: Any, directory: Any, _where: Any) -> BackendError:
        assert run_config["out"] == "run"  # sites refuse a path
        attempts.append(1)
        if len(attempts) == 3:
            (directory.path / "rounds.jsonl").write_text("{}\n")
        return BackendError("the SuperLink died\nlog")

    monkeypatch.setattr(coordinating, "_attempt", attempt)
    said: list[str] = []
    with pytest.raises(BackendError, match="5 attempts without a new round"):
        coordinate(config, federation(tmp_path, said))
    assert len(attempts) == 3 + 5
    assert said[0] == f"the SuperLink died; going on with the run in {tmp_path / 'run'}"


def test_a_complete_run_is_not_repeated(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = execute(config, tmp_path / "run")
    monkeypatch.setattr(coordinating, "_attempt", None)
    said: list[str] = []
    found = coordinate(config, federation(tmp_path, said))
    assert found["theta_sha256"] == summary["theta_sha256"]
    assert said == [f"the run in {tmp_path / 'run'} is complete"]
    with pytest.raises(RunDirectoryError, match="another configuration"):
        coordinate(resolve(SMALL, {"seed": 1}), federation(tmp_path, said))


def test_the_app_that_travels_is_one_file_without_code(tmp_path: Path, config: RunConfig) -> None:
    write_app(tmp_path / "app", coordinating.APPS, to_run_config(config, Path("run")))
    assert [path.name for path in (tmp_path / "app").iterdir()] == ["pyproject.toml"]
    table = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())
    components = table["tool"]["flwr"]["app"]["components"]
    assert components["serverapp"] == "fedmaml.server.app:app"
    assert components["clientapp"] == "fedmaml.sites.app:app"
    assert str(tmp_path) not in json.dumps(table)
