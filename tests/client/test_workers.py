"""Worker processes: the bits of one process, and an end with the process that started them."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmaml.client.worker_processes import Workers, workers_of
from fedmaml.config import resolve
from fedmaml.core.errors import BackendError, ConfigurationError
from fedmaml.core.failures import EndedItselfError
from fedmaml.core.processes import STARTED_A_RUN, WORKER
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")

COMMAND = [sys.executable, "-m", "fedmaml.cli", "run", "digits", "--strategy", "fedrep"]
FEW_AT_A_TIME = ["--workers", "2", "--client-batch", "5", "--clients", "20"]


def digits(strategy: str, **settings: Any) -> dict[str, Any]:
    base = {"scenario": "digits", "strategy": strategy, "rounds": 3, "seed": 1, "clients": 14}
    return base | {"client_batch": 4} | settings


def outcome(out: Path, **settings: Any) -> tuple[Any, ...]:
    summary = execute(resolve(digits(**settings)), out)
    records = RunDirectory(out).rounds()
    evaluated = (out / "clients.jsonl").read_text()
    cost = [record["cost"]["flops"] for record in records]
    return summary["theta_sha256"], summary["metric"], summary["engines"], evaluated, cost


@pytest.mark.parametrize("strategy", ["maml", "meta_sgd", "fedrep"])
@pytest.mark.parametrize("engine", ["auto", "vmap", "loop"])
def test_workers_change_no_bit(strategy: str, engine: str, tmp_path: Path) -> None:
    settings = {"strategy": strategy, "engine": engine}
    one = outcome(tmp_path / "one", **settings)
    assert outcome(tmp_path / "two", workers=2, **settings) == one


def test_workers_share_the_clients_of_fused_and_change_no_bit(tmp_path: Path) -> None:
    settings = {"scenario": "sinusoid", "clients": 600, "client_batch": 0, "strategy": "maml"}
    one = outcome(tmp_path / "one", **settings)
    assert "fused" in one[2]["updates"]
    assert outcome(tmp_path / "two", workers=2, **settings) == one


@pytest.mark.slow
def test_more_workers_than_chunks_and_several_nodes_change_no_bit(tmp_path: Path) -> None:
    settings = {"strategy": "fomaml", "client_batch": 7, "engine": "loop"}
    one = outcome(tmp_path / "one", **settings)
    assert outcome(tmp_path / "four", workers=4, **settings) == one
    settings["client_batch"] = 3  # `loop` computes each client alone, whoever shares its chunk
    nodes = outcome(tmp_path / "nodes", workers=2, nodes=2, **settings)
    assert nodes[0] == one[0]
    workers_of(4).end()


def test_workers_change_no_bit_of_compressed_updates_and_residuals(tmp_path: Path) -> None:
    settings = {"strategy": "fedrep", "compression.method": "qsgd-4",
                "compression.error_feedback": True}  # fmt: skip
    one = outcome(tmp_path / "one", **settings)
    assert outcome(tmp_path / "two", workers=2, **settings) == one


def test_what_workers_log_and_leave_out_is_what_one_process_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"strategy": "maml", "engine": "vmap", "inner.lr": 1e30, "rounds": 1}
    reported = []
    for workers in (1, 2):
        caplog.clear()
        with pytest.raises(BackendError, match="not one client's update could be used"):
            execute(resolve(digits(workers=workers, **settings)), tmp_path / str(workers))
        rejected = RunDirectory(tmp_path / str(workers)).rounds()[0]["rejected"]
        reported.append((rejected, sorted(record.getMessage() for record in caplog.records)))
    assert reported[0] == reported[1]
    assert reported[0][0]


# --- calls, death and Ctrl-C --------------------------------------------------------------------


def square(number: int, deadly: Path | None) -> int:
    if deadly is not None and not deadly.exists():
        deadly.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def stop(number: int, mark: Path | None) -> int:
    if mark is not None and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return number * number


def wait_once(mark: Path) -> int:
    if not mark.exists():
        mark.touch()
        time.sleep(600)
    return 1


def compute_for(seconds: float) -> float:
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))
    return seconds


def end_itself(error: type[BaseException]) -> None:
    raise error


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


class DemandingError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def refuse(number: int, demanding: bool) -> int:
    raise DemandingError(number, 2) if demanding else KeyError(number)


def large(megabytes: int) -> np.ndarray:
    return np.zeros(megabytes * 2**20, np.uint8)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    some = Workers(2)
    yield some
    some.end()


def test_what_a_killed_worker_did_not_finish_is_done_again(
    workers: Workers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deadly = tmp_path / "deadly"
    calls = [(number, deadly if number == 5 else None) for number in range(9)]
    assert list(workers.map(square, calls)) == [number * number for number in range(9)]
    assert "a worker process died; a new one is started" in caplog.text


def test_a_worker_that_was_stopped_is_killed_and_its_work_done_again(
    workers: Workers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "stopped"
    started = time.monotonic()
    calls = [(number, mark if number == 3 else None) for number in range(6)]
    assert list(workers.map(stop, calls)) == [number * number for number in range(6)]
    assert time.monotonic() - started < 20
    assert "a worker process stands still and is killed" in caplog.text


@pytest.mark.slow
def test_a_worker_that_was_stopped_while_idle_gets_no_work(workers: Workers) -> None:
    assert list(workers.map(square, [(3, None)] * 4)) == [9] * 4
    pid = workers._staff[0].process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert list(workers.map(large, [(40,)] * 4)) is not None
    assert pid not in [worker.process.pid for worker in workers._staff]


@pytest.mark.slow
def test_a_worker_that_computes_nothing_is_killed_at_the_limit_only(
    workers: Workers, tmp_path: Path
) -> None:
    list(workers.map(square, [(3, None)] * 4))  # they run
    time.sleep(1.5)  # idle for longer than the limit
    assert list(workers.map(wait_once, [(tmp_path / "waited",)], limit=1.0)) == [1]
    assert (tmp_path / "waited").exists()
    assert list(workers.map(compute_for, [(3.0,)], limit=1.0)) == [3.0]  # at work for longer


@pytest.mark.parametrize(
    "error", [SystemExit, pytest.param(KeyboardInterrupt, marks=pytest.mark.slow)]
)
def test_code_that_ends_itself_does_not_end_its_worker(
    workers: Workers, error: type[BaseException]
) -> None:
    with pytest.raises(EndedItselfError, match=error.__name__):
        list(workers.map(end_itself, [(error,)]))
    assert list(workers.map(square, [(3, None)])) == [9]


@pytest.mark.slow
def test_work_that_kills_every_worker_is_given_up(workers: Workers) -> None:
    with pytest.raises(BackendError, match=r"died 3 times in a row.*memory ran out.*--workers"):
        list(workers.map(die, [(1,)]))
    assert list(workers.map(square, [(3, None)])) == [9]  # and others go on


def test_what_a_worker_raises_is_raised_here(workers: Workers) -> None:
    with pytest.raises(KeyError, match="7") as caught:
        list(workers.map(refuse, [(7, False)]))
    assert "in a worker process" in caught.value.__notes__[0]
    assert "in refuse" in caught.value.__notes__[0]
    with pytest.raises(BackendError, match="DemandingError: 7 and 2"):  # cannot be unpickled
        list(workers.map(refuse, [(7, True)]))


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_interrupt_amid_large_results_ends_at_once_and_new_workers_start(workers: Workers) -> None:
    list(workers.map(square, [(1, None)] * 2))
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        timer.start()
        while True:  # a worker is writing most of the time
            list(workers.map(large, [(20,)] * 8))
    assert list(workers.map(square, [(3, None)])) == [9]


@pytest.mark.slow
def test_killed_worker_changes_no_bit_of_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"client_batch": 5, "clients": 20, "rounds": 60, "seed": 0}
    alone = execute(resolve(digits("fedrep", **settings)), tmp_path / "alone")

    def kill_one() -> None:
        wait_for_rounds(tmp_path / "killed")
        workers_of(2)._staff[1].process.kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = execute(resolve(digits("fedrep", workers=2, **settings)), tmp_path / "killed")
    killer.join()
    assert "a worker process died" in caplog.text
    assert (summary["rejected_replies"], summary["workers"]) == (0, 2)
    assert summary["theta_sha256"] == alone["theta_sha256"]


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGINT,
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_no_worker_and_no_file_outlives_its_run(how: signal.Signals, tmp_path: Path) -> None:
    arguments = [*COMMAND, *FEW_AT_A_TIME, "--rounds", "100000", "--out", "x"]
    with started(arguments, tmp_path) as popen:
        wait_for_rounds(tmp_path / "x")
        family = children(popen.pid, "")
        assert len(children(popen.pid, "multiprocessing.spawn")) == 2
        if how == signal.SIGINT:
            os.killpg(popen.pid, how)  # as a terminal does: every process of the group
        else:
            popen.send_signal(how)
        _, errors = popen.communicate(timeout=30)
    assert "Traceback" not in errors
    if how == signal.SIGINT:
        assert popen.returncode == 130
    deadline = time.monotonic() + 10
    while (left := [pid for pid in family if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    assert not list(tmp_path.glob("fedmaml-workers-*"))


def started(arguments: list[str], folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        arguments,
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_rounds(run: Path, count: int = 3) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (run / "rounds.jsonl").exists() and len(RunDirectory(run).rounds()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("no rounds within a minute")


def children(parent: int, mark: str) -> list[int]:
    """Return the children of a process whose command line has a mark."""
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(parent)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [int(line.split()[0]) for line in found.stdout.splitlines() if mark in line]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


NO_GUARD = """
import sys
from fedmaml.cli import main

sys.argv = ["fedmaml", "run", "digits", "--workers", "2", "--client-batch", "5"]
main()
"""


def test_a_script_without_a_guard_is_refused_before_the_run(tmp_path: Path) -> None:
    """A worker imports the script, which starts the run again: once, it named its own parent."""
    (tmp_path / "wards.py").write_text(NO_GUARD)
    done = subprocess.run(
        [sys.executable, "wards.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    said = [
        line for line in done.stderr.splitlines() if not line.startswith(("engine ", "digits: "))
    ]
    assert len(said) == 1, said
    assert re.search(
        r"^fedmaml: BackendError: \S*wards\.py starts a run while its own processes import it, .*: "
        r"put what it runs below `if __name__ == '__main__':`$",
        said[0],
    )
    assert [path.name for path in tmp_path.iterdir()] == ["wards.py"]


@pytest.mark.parametrize("name", [WORKER, "Process-1"])
def test_no_run_begins_while_a_process_imports_its_script(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = multiprocessing.current_process()
    monkeypatch.setattr(process, "_inheriting", True, raising=False)  # as multiprocessing does
    monkeypatch.setattr(process, "name", name)
    with pytest.raises((SystemExit, ConfigurationError)) as ended:
        execute(resolve(digits("fomaml")), tmp_path / "run")
    if name == WORKER:
        assert ended.value.code == STARTED_A_RUN
    else:  # a process of the script's own
        assert "starts a run while its own processes import it" in str(ended.value)
    assert not (tmp_path / "run").exists()
