"""Flower's processes, started, watched and ended by us; what the two Flower back ends share.

    with workspace() as space       a temporary folder; on leaving, every process of it is ended
        space.start(...)            flower-superlink, flower-supernode: own session, own log
        write_app(...)              a thin Flower app: run configuration and two references, no code
        run_app(...)                ``flwr run``, then wait until ``flwr ls`` says how it ended

Flower is used through its command lines only, and nothing needs a network beyond loopback.
While a run lasts its SuperLink takes commands, without authentication, from every user of this
machine: do not use these back ends where other users are not trusted.
"""

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import tomli_w

from fedmaml.core.errors import BackendError
from fedmaml.simulations.backends.apps import Apps

RunConfig = Mapping[str, str | int | float | bool]

CONNECTION = "fedmaml"  # what the Flower configuration of a workspace calls its SuperLink
POLL_SECONDS = 0.5
START_SECONDS = 60.0  # patience with one process; a loaded machine needs ten times the usual 2 s
GRACE_SECONDS = 3.0  # between SIGTERM and SIGKILL; all that is lost is a temporary state
QUOTED_LINES = 20
_MARK = "FEDMAML_WORKSPACE"  # every descendant inherits it, and is found and ended by it
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOISE = re.compile(r'^(INFO\s*:)?\s*$|"(GET|POST) /\S* HTTP')  # empty lines and access logs

logger = logging.getLogger("fedmaml")


def offline_environment(flwr_home: Path) -> dict[str, str]:
    """Return the environment of a Flower process that keeps to this machine.

    Args:
        flwr_home: Folder for what Flower stores: its configuration and installed apps.

    Returns:
        ``os.environ`` with this Python's scripts first on PATH (Flower starts its helpers by
        name), and without telemetry, update checks, run-time installation, usage reports and
        forced colours (which would spoil the JSON that ``flwr`` prints).
    """
    environment = {
        k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "CLICOLOR_FORCE")
    }
    environment |= {
        "FLWR_HOME": str(flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
    }
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.2")  # seconds; Flower's own: 1
    return environment


def write_app(folder: Path, apps: Apps, run_config: RunConfig) -> None:
    """Write a thin Flower app: one ``pyproject.toml`` that points to installed packages."""
    project = {"name": "fedmaml-run", "version": "1.0.0", "description": "", "license": ""}
    app = {
        "publisher": "fedmaml",
        "components": {"serverapp": apps.server, "clientapp": apps.client},
        "config": dict(run_config),
    }
    folder.mkdir(parents=True)
    text = tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def answers(port: int) -> bool:
    """Return whether something on this machine accepts connections on ``port``."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@dataclass(frozen=True)
class Child:
    """A process that we started.

    Attributes:
        name: What messages and the log file call it.
        popen: The process; it leads a session of its own, out of reach of the terminal's Ctrl-C.
        log: File of all that it and its descendants print.
    """

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def ended(self) -> bool:
        """Return whether the process is gone."""
        return self.popen.poll() is not None

    def failure(self, what: str, advice: str) -> BackendError:
        """Return the error that tells ``what`` failed, with the end of this process's log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in _COLOUR.sub("", text).splitlines() if not _NOISE.search(line)]
        quoted = "\n".join(f"    {line}" for line in lines[-QUOTED_LINES:] or ["(empty)"])
        return BackendError(
            f"{_COLOUR.sub('', what)}\nEnd of the log of {self.name}:\n{quoted}\n"
            f"All logs: {self.log.parent}\n{advice}"
        )


@dataclass(frozen=True)
class Workspace:
    """A temporary folder and the processes that were started for it.

    Attributes:
        folder: Homes, working directories and logs; removed at the end unless the run failed.
        children: The processes we started, in order.
    """

    folder: Path
    children: list[Child] = field(default_factory=list)

    def environment(self, home: str) -> dict[str, str]:
        """Return the environment of the processes that share the Flower home called ``home``."""
        return offline_environment(self.folder / "homes" / home) | {_MARK: str(self.folder)}

    def start(self, name: str, command: Sequence[str], environment: dict[str, str]) -> Child:
        """Start a process in an empty working directory.

        Empty, because Ray workers import from their SuperLink's directory before they look at
        what is installed, and would run whatever checkout lies there.
        """
        directory, log = self.folder / "empty" / name, self.folder / "logs" / f"{name}.log"
        directory.mkdir(parents=True)
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [_executable(command[0], environment), *command[1:]],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = Child(name, popen, log)
        self.children.append(child)
        return child

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Return what ``flwr <arguments> --format json`` answers; costs about 0.7 s of CPU."""
        environment = self.environment("operator")
        command = [_executable("flwr", environment), *arguments, "--format", "json"]
        with suppress(ValueError, subprocess.TimeoutExpired):
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=START_SECONDS,
                start_new_session=True,
            )
            answer: dict[str, Any] = json.loads(done.stdout)
            return answer
        return {"success": False, "error-message": "no answer"}

    def members(self) -> set[int]:
        """Return the live processes of this workspace, however far from us they have moved.

        On Linux: all that carry our mark in their environment or descend from one that does.
        Elsewhere: those we started ourselves; their descendants watch their parents.
        """
        alive = {child.popen.pid for child in self.children if not child.ended()}
        mark = f"{_MARK}={self.folder}\0".encode()
        parent: dict[int, int] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone in the meantime, or another user's
                state, ppid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parent[int(entry.name)] = int(ppid)
                    if mark in (entry / "environ").read_bytes():
                        alive.add(int(entry.name))
        while more := {pid for pid, ppid in parent.items() if ppid in alive} - alive:
            alive |= more
        return alive

    def end(self) -> None:
        """End all processes: SIGTERM, then SIGKILL to those left after the grace time."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            told: set[int] = set()
            deadline = time.monotonic() + GRACE_SECONDS
            while (alive := self.members()) and time.monotonic() < deadline:
                for pid in alive - told:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signum)
                told |= alive
                time.sleep(0.05)
        for child in self.children:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.popen.pid, signal.SIGKILL)


@contextmanager
def workspace() -> Iterator[Workspace]:
    """Open a workspace; on leaving, for whatever reason, end every process of it.

    SIGTERM to this process counts as a reason; SIGKILL cannot. The folder stays if the run failed,
    for its logs.
    """
    space = Workspace(Path(tempfile.mkdtemp(prefix="fedmaml-")))
    keep = False
    try:
        with _handler(signal.SIGTERM, _exit):
            yield space
    except BackendError:
        keep = True
        raise
    finally:
        with _handler(signal.SIGINT, signal.SIG_IGN), _handler(signal.SIGTERM, signal.SIG_IGN):
            space.end()
        if not keep:
            shutil.rmtree(space.folder, ignore_errors=True)


def start_superlink(space: Workspace, *options: str, **variables: str) -> tuple[Child, str]:
    """Start a SuperLink of our own, wait until it answers, and point ``flwr`` to it.

    Args:
        space: Where it runs.
        options: Further options of ``flower-superlink``.
        variables: Further environment variables of its processes.

    Returns:
        The process and its address, ``host:port``.
    """
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    environment = space.environment("operator")
    home = Path(environment["FLWR_HOME"])
    home.mkdir(parents=True)
    connection = {"address": address, "insecure": True}
    (home / "config.toml").write_text(
        tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
    )
    command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    superlink = space.start("superlink", [*command, *options], environment | variables)
    wait_until(lambda: answers(port), [superlink], START_SECONDS, "the SuperLink to answer")
    return superlink, address


def wait_until(
    ready: Callable[[], bool], children: Sequence[Child], seconds: float, what: str
) -> None:
    """Wait until ``ready()``, but for at most ``seconds`` and only while the children live.

    Raises:
        BackendError: Too late, or a child ended.
    """
    advice = "Run it again when the machine is less busy, or use the in-process back end."
    deadline = time.monotonic() + seconds
    while not ready():
        for child in children:
            if child.ended():
                code = child.popen.returncode
                raise child.failure(f"{child.name} ended with exit code {code}", advice)
        if time.monotonic() > deadline:
            raise children[0].failure(f"waited {seconds:.0f} s in vain for {what}", advice)
        time.sleep(0.05)


def run_app(
    space: Workspace, app: Path, superlink: Child, nodes: Sequence[Child] = (), federation: str = ""
) -> None:
    """Submit a Flower app and block until its run has finished.

    ``flwr run --stream`` follows the run's log and ends with the run; only then is the status
    asked for, since each question costs 0.7 s of CPU that the run itself can use.

    Args:
        space: Where it runs.
        app: Folder of the app.
        superlink: The SuperLink; the run fails at once if it dies.
        nodes: SuperNodes; the death of one is logged, and the run goes on.
        federation: Value of ``--federation-config``.

    Raises:
        BackendError: The run was not accepted, failed, or was stopped.
    """
    command = ["flwr", "run", str(app), CONNECTION, "--stream"]
    command += ["--federation-config", federation] if federation else []
    stream = space.start("run", command, space.environment("operator"))
    mourned: set[str] = set()
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                stream.popen.wait(POLL_SECONDS)
            if superlink.ended():
                raise superlink.failure("the SuperLink died during the run", "Run it again.")
            for node in nodes:
                if node.ended() and node.name not in mourned:
                    mourned.add(node.name)
                    logger.warning("%s died; the run goes on. Log: %s", node.name, node.log)
            if stream.ended() and _finished(space, stream):
                return
    except (KeyboardInterrupt, SystemExit):
        for run in space.ask("ls", CONNECTION).get("runs", []):
            space.ask("stop", run["run-id"], CONNECTION)
        raise


def _finished(space: Workspace, stream: Child) -> bool:
    """Return whether the only run of a workspace has completed; raise if it failed."""
    answer = space.ask("ls", CONNECTION)
    if not answer.get("runs"):
        what = f"Flower did not accept the run: {answer.get('error-message', 'no run started')}"
        raise stream.failure(what, "Correct what the log names and run it again.")
    run = answer["runs"][0]
    status: str = run["status"]
    if status.startswith("finished") and status != "finished:completed":
        raise stream.failure(
            f"the Flower run ended as {status}: {run['status-details']}",
            "Correct what the log names and run it again; the in-process back end is the quickest "
            "place to look for an error in an app.",
        )
    return status.startswith("finished")


def _executable(name: str, environment: Mapping[str, str]) -> str:
    """Return the path of one of Flower's commands."""
    path = shutil.which(name, path=environment["PATH"])
    if path is None:
        raise BackendError(f"command {name!r} not found beside this Python; pip install fedmaml")
    return path


def _exit(signum: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


@contextmanager
def _handler(signum: int, handler: Callable[[int, FrameType | None], Any] | int) -> Iterator[None]:
    """Handle a signal differently for a while; in other threads than the main one, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, before if before is not None else signal.SIG_DFL)
