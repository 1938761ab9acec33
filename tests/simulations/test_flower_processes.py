"""The processes behind the Flower back ends; nothing here starts Flower or Ray itself."""

import logging
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fedmaml.core.errors import BackendError
from fedmaml.simulations.backends import (
    flower_processes,
    processes,
    refuse_without_package,
    watchdog,
)
from fedmaml.simulations.backends.apps import Apps
from fedmaml.simulations.backends.flower_processes import (
    environment_of,
    offline_environment,
    run_app,
    write_app,
)
from fedmaml.simulations.backends.processes import (
    Child,
    Workspace,
    answers,
    free_ports,
    wait_until,
    workspace,
)

APPS = Apps("some.server:app", "some.client:app")
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
# Starts a grandchild in a session of its own (as a SuperLink does), tells its id, then sleeps.
FORK = [
    sys.executable,
    "-S",
    "-c",
    "import subprocess, sys, time;"
    "grandchild = subprocess.Popen(sys.argv[1:], start_new_session=True);"
    "print(grandchild.pid, flush=True); time.sleep(60)",
    *SLEEP,
]
STUBBORN = [
    sys.executable,
    "-S",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('deaf', flush=True); time.sleep(60)",
]


@pytest.fixture(autouse=True)
def temporary_folders_of_failed_runs_go_with_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Return whether the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def runs(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(space: Workspace, name: str, command: list[str]) -> Child:
    return space.start(name, command, environment_of(space, name))


def test_thin_app_is_one_file_with_the_references_and_the_run_config(tmp_path: Path) -> None:
    config = {
        "rounds": 3,
        "lr": 0.01,
        "resume": False,
        "settings": "inner.lr = 0.1\nname = \"'x'\"",
    }
    write_app(tmp_path / "app", APPS, config)
    assert [file.name for file in (tmp_path / "app").iterdir()] == ["pyproject.toml"]
    text = (tmp_path / "app" / "pyproject.toml").read_text(encoding="utf-8")
    app = tomllib.loads(text)["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": "some.server:app", "clientapp": "some.client:app"}
    assert app["config"] == config


def test_environment_keeps_flower_and_ray_off_the_network(tmp_path: Path) -> None:
    environment = offline_environment(tmp_path)
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"


def test_environment_finds_flower_without_an_activated_venv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    path = offline_environment(tmp_path)["PATH"].split(os.pathsep)
    assert path == [sysconfig.get_path("scripts"), "/usr/bin"]


def test_environment_keeps_the_users_threads_and_drops_forced_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("FORCE_COLOR", "1")
    environment = offline_environment(tmp_path)
    assert environment["OMP_NUM_THREADS"] == "7"
    assert "FORCE_COLOR" not in environment


def test_free_ports_differ_and_can_be_bound() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    with socket.socket() as server:
        server.bind(("127.0.0.1", ports[0]))
        assert not answers(ports[0])
        server.listen()
        assert answers(ports[0])


def test_process_starts_in_an_empty_directory_with_a_home_of_its_own() -> None:
    tell = "import os; print(os.listdir(), os.environ['FLWR_HOME'])"
    with workspace() as space:
        child = start(space, "teller", [sys.executable, "-S", "-c", tell])
        assert child.popen.wait(30) == 0
        assert child.log.read_text() == f"[] {space.folder}/homes/teller\n"


@needs_proc
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_leaving_a_workspace_ends_children_and_grandchildren_and_removes_the_folder(
    error: type[BaseException] | None,
) -> None:
    pids: list[int] = []
    folders: list[Path] = []

    def work() -> None:
        with workspace() as space:
            folders.append(space.folder)
            child = start(space, "parent", FORK)
            assert eventually(lambda: child.log.read_text().endswith("\n"))
            pids.extend([child.popen.pid, int(child.log.read_text())])
            assert space.members() == set(pids)
            assert all(map(runs, pids))
            if error is not None:
                raise error("stop")

    if error is None:
        work()
    else:
        with pytest.raises(error, match="stop"):
            work()
    assert not any(map(runs, pids))
    assert not folders[0].exists()


@needs_proc
def test_grandchild_whose_parent_died_is_ended_too() -> None:
    with workspace() as space:
        child = start(space, "parent", FORK)
        assert eventually(lambda: child.log.read_text().endswith("\n"))
        orphan = int(child.log.read_text())
        child.popen.kill()
        assert child.popen.wait(10) == -signal.SIGKILL
        assert space.members() == {orphan}
    assert not runs(orphan)


def test_process_deaf_to_sigterm_is_killed_after_the_grace_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.3)
    with workspace() as space:
        child = start(space, "stubborn", STUBBORN)
        assert eventually(lambda: "deaf" in child.log.read_text())
    assert child.popen.returncode == -signal.SIGKILL


def test_two_workspaces_do_not_touch_each_others_processes() -> None:
    with workspace() as one:
        mine = start(one, "mine", SLEEP)
        with workspace() as other:
            theirs = start(other, "theirs", SLEEP)
        assert theirs.ended()
        assert not mine.ended()


@needs_proc
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_ended_takes_its_processes_and_its_folder_along(how: int) -> None:
    program = (
        "import os, sys, time\n"
        "from fedmaml.simulations.backends.processes import workspace\n"
        "with workspace() as space:\n"
        "    child = space.start('child', sys.argv[1:], dict(os.environ))\n"
        "    print(child.popen.pid, space.folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, *SLEEP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        pid, folder = popen.stdout.readline().split()
        popen.send_signal(how)
        assert popen.wait(30) == (-how if how == signal.SIGKILL else 128 + how)
    assert eventually(lambda: not runs(int(pid)))
    assert eventually(lambda: not Path(folder).exists())


def test_a_programs_own_sigterm_handler_stays_in_force() -> None:
    def own(_signum: int, _frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        with workspace():
            assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_failure_quotes_the_end_of_the_log_without_noise_and_says_where_it_is(
    tmp_path: Path,
) -> None:
    log = tmp_path / "run.log"
    lines = [f"line {i}" for i in range(100)]
    lines += ["INFO :      ", '12:00 - "POST /v1/control/list-runs HTTP/1.1" 200', ""]
    lines += ["\x1b[91mERROR\x1b[0m : out of luck"]
    log.write_text("\n".join(lines))
    with subprocess.Popen(["true"]) as popen:
        error = Child("run", popen, log).failure("the run failed", "Try harder.")
    said = str(error).splitlines()
    kept = processes.QUOTED_LINES - 1  # the error line is the last of the quoted ones
    assert said[0] == "the run failed"
    assert said[1] == "End of the log of run:"
    assert said[2 : 2 + kept] == [f"    line {i}" for i in range(100 - kept, 100)]
    assert said[2 + kept :] == ["    ERROR : out of luck", f"All logs: {tmp_path}", "Try harder."]


def test_waiting_for_a_process_that_dies_fails_at_once_with_its_last_words(tmp_path: Path) -> None:
    def work() -> None:
        with workspace() as space:
            last_words = "import sys; print('no such port'); sys.exit(3)"
            child = start(space, "superlink", [sys.executable, "-S", "-c", last_words])
            wait_until(lambda: False, [child], 30.0, "it to answer")

    pattern = r"superlink ended with exit code 3\n(.|\n)*no such port"
    with pytest.raises(BackendError, match=pattern):
        work()
    (log,) = tmp_path.glob("fedmaml-*/logs/superlink.log")  # a failed run leaves its logs
    assert log.read_text() == "no such port\n"


def test_waiting_ends_when_patience_does() -> None:
    def work() -> None:
        with workspace() as space:
            wait_until(lambda: False, [start(space, "superlink", SLEEP)], 0.2, "an answer")

    with pytest.raises(BackendError, match="waited 0 s in vain for an answer"):
        work()


# `flwr run` prints, and exits with 0 whatever becomes of the run; `flwr ls` tells what did.
FLWR = """#!{python} -S
import json, sys, time
if sys.argv[1] == "run":
    print("ValueError: no luck")
    time.sleep({seconds})
else:
    print(json.dumps({answer}))
"""


def run_app_with_pretended_flwr(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: dict[str, object],
    seconds: float = 0.0,
    superlink: list[str] = SLEEP,
    nodes: Sequence[list[str]] = (),
) -> None:
    """Run an app with a ``flwr`` whose runs take ``seconds`` and that always answers the same."""
    script = folder / "flwr"
    script.write_text(FLWR.format(python=sys.executable, seconds=seconds, answer=answer))
    script.chmod(0o755)
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(folder))
    with workspace() as space:
        link = start(space, "superlink", superlink)
        supernodes = [start(space, f"supernode-{i}", node) for i, node in enumerate(nodes)]
        run_app(space, folder, link, supernodes)


def ended(status: str) -> dict[str, object]:
    run = {"run-id": "7", "status": status, "status-details": "no luck"}
    before = {"run-id": "6", "status": "finished:failed", "status-details": "a run before it"}
    times = "2026-01-02 10:00:00Z", "2026-01-02 09:59:59Z"
    runs = [each | {"pending-at": at} for each, at in zip((run, before), times, strict=True)]
    return {"success": True, "runs": runs[::-1]}


def test_completed_run_returns_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_app_with_pretended_flwr(tmp_path, monkeypatch, ended("finished:completed"))
    assert list(tmp_path.glob("fedmaml-*")) == []


@pytest.mark.parametrize("status", ["finished:failed", "finished:stopped"])
def test_run_that_did_not_complete_is_an_error_though_flwr_run_exits_with_0(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = rf"ended as {status}: no luck\n(.|\n)*ValueError: no luck"
    with pytest.raises(BackendError, match=pattern):
        run_app_with_pretended_flwr(tmp_path, monkeypatch, ended(status))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"success": True, "runs": []}, "did not accept the run"),
        ({"success": False, "error-message": "too busy"}, "could not ask(.)*: too busy"),
    ],
)
def test_run_without_a_status_is_an_error(
    answer: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match=message):
        run_app_with_pretended_flwr(tmp_path, monkeypatch, answer)


def test_death_of_the_superlink_fails_the_run_and_that_of_a_node_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_once, later = ([sys.executable, "-S", "-c", f"import time; time.sleep({s})"] for s in (0, 1))
    caplog.set_level(logging.WARNING, "fedmaml")
    with pytest.raises(BackendError, match="the SuperLink died during the run"):
        run_app_with_pretended_flwr(tmp_path, monkeypatch, {}, 60.0, later, [SLEEP, at_once])
    assert [record.message.split(";")[0] for record in caplog.records] == ["supernode-1 died"]


def test_interrupted_run_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def ask(_space: Workspace, *arguments: str) -> dict[str, object]:
        asked.append(arguments)
        return ended("running")

    monkeypatch.setattr(flower_processes, "ask", ask)
    interrupt = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        run_app_with_pretended_flwr(tmp_path, monkeypatch, {}, 60.0)
    interrupt.join()
    assert asked == [("ls", "fedmaml"), ("stop", "7", "fedmaml")]
    assert list(tmp_path.glob("fedmaml-*")) == []


def test_simulation_without_ray_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(BackendError, match=r"pip install 'fedmaml\[ray\]'"):
        refuse_without_package("flower-simulation")
    refuse_without_package("in-process")
