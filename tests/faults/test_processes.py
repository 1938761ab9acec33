"""Processes of a run that die, and clocks that jump."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmaml.client.worker_processes import Workers
from fedmaml.config import resolve
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from tests.faults.report import SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX signals")]


@pytest.fixture
def workers() -> Iterator[Workers]:
    some = Workers(2)
    list(some.map(pause, [(0.0,)] * 4))  # both have started
    yield some
    some.end()


def pause(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_a_killed_worker_is_noticed_at_once(
    workers: Workers,
    record_property: Callable[[str, Any], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed: list[float] = []

    def kill() -> None:
        killed.append(time.time())
        os.kill(workers._staff[0].process.pid, signal.SIGKILL)

    threading.Timer(0.3, kill).start()
    assert len(list(workers.map(pause, [(1.0,), (1.0,)]))) == 2
    (noticed,) = [r.created for r in caplog.records if "a worker process died" in r.getMessage()]
    record_property(SECONDS, noticed - killed[0])
    assert 0 <= noticed - killed[0] < 2.0


def large(number: int) -> np.ndarray:
    return np.full(2**21, number)  # 16 MB: takes some milliseconds to send


def test_a_worker_killed_while_it_sends_its_result_is_not_used(workers: Workers) -> None:
    """Ten cuts, at 0 to 36 ms after the call; the first parts of a result were read by then."""
    for cut in range(10):
        killer = threading.Timer(
            0.004 * cut, lambda: os.kill(workers._staff[0].process.pid, signal.SIGKILL)
        )
        killer.start()
        results = list(workers.map(large, [(7,), (8,), (9,)]))
        killer.join()
        assert [(len(r), int(r.min()), int(r.max())) for r in results] == [
            (2**21, number, number) for number in (7, 8, 9)
        ]


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_changes_nothing(
    hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the second round the time of day is another one; deadlines ask the monotonic clock."""
    config = resolve({"scenario": "quadratic", "strategy": "fomaml", "rounds": 4, "timeout": 30.0})
    execute(config, tmp_path / "steady")
    now, jumped = time.time, 3600.0 * hours

    def wall() -> float:
        path = tmp_path / "jumps" / "rounds.jsonl"
        late = path.exists() and path.read_bytes().count(b"\n") >= 2
        return now() + (jumped if late else 0.0)

    monkeypatch.setattr(time, "time", wall)
    summary = execute(config, tmp_path / "jumps")
    monkeypatch.undo()
    steady = RunDirectory(tmp_path / "steady").summary()
    assert steady is not None
    assert summary["theta_sha256"] == steady["theta_sha256"]
    assert summary["rejected_replies"] == 0
    assert 0 <= summary["seconds"] < 60
