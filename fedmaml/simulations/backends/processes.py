"""Processes that we start, watch and end, so that none is left behind.

with workspace() as space       a temporary folder; on leaving, every process of it is ended
space.start(...)            a process with a session, an empty working directory and a log
wait_until(...)             ... until it is ready; an error if it dies or takes too long
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from fedmaml.core.errors import BackendError
from fedmaml.simulations.backends import watchdog

QUOTED_LINES = 20
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOISE = re.compile(r'^(INFO\s*:)?\s*$|"(GET|POST) /\S* HTTP')  # empty lines and access logs


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports of 127.0.0.1 that no process listens on."""
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
        name: Name in messages and of the log file.
        popen: The process; it leads a session of its own, out of reach of the terminal's Ctrl-C.
        log: File of the output of the process and its descendants.
    """

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def ended(self) -> bool:
        """Return whether the process is gone."""
        return self.popen.poll() is not None

    def failure(self, what: str, advice: str) -> BackendError:
        """Return an error that names ``what`` failed, with the end of this process's log."""
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
        watchdog: Ends all others if this process is killed.
        children: The processes we started, in order.
    """

    folder: Path
    watchdog: subprocess.Popen[bytes]
    children: list[Child] = field(default_factory=list)

    def start(self, name: str, command: Sequence[str], environment: dict[str, str]) -> Child:
        """Start a process in an empty working directory.

        It is empty because Ray workers import from their SuperLink's directory before installed
        packages, and would run any checkout that lies there.
        """
        directory, log = self.folder / "empty" / name, self.folder / "logs" / f"{name}.log"
        directory.mkdir(parents=True)
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [executable(command[0], environment), *command[1:]],
                cwd=directory,
                env=environment | {watchdog.MARK: str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = Child(name, popen, log)
        self.children.append(child)
        self.tell_watchdog(str(popen.pid))
        return child

    def tell_watchdog(self, line: str) -> None:
        """Write a line to the process that outlives us."""
        assert self.watchdog.stdin is not None
        with suppress(BrokenPipeError):  # somebody ended it
            self.watchdog.stdin.write(f"{line}\n".encode())
            self.watchdog.stdin.flush()

    def members(self) -> set[int]:
        """Return the live processes of this workspace, even if they have left our session."""
        ours = {child.popen.pid for child in self.children if not child.ended()}
        return watchdog.members(self.folder, ours)

    def end(self) -> None:
        """End all processes: SIGTERM, then SIGKILL to those left after the grace time."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            terminated: set[int] = set()
            deadline = time.monotonic() + watchdog.GRACE_SECONDS
            while (alive := self.members()) and time.monotonic() < deadline:
                watchdog.signal_all(alive - terminated, signum)
                terminated |= alive
                time.sleep(0.05)
        for child in self.children:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.popen.pid, signal.SIGKILL)


@contextmanager
def workspace(place: Path | None = None) -> Iterator[Workspace]:
    """Open a workspace; on leaving, for whatever reason, end every process of it.

    SIGTERM and SIGHUP (a closed terminal) count as reasons, unless the program handles them itself.
    If this process is killed, `watchdog` does the same. The folder stays if the run failed, for its
    logs.

    Args:
        place: Where its folder is made; None: where the system keeps temporary files.
    """
    folder = Path(tempfile.mkdtemp(prefix="fedmaml-", dir=place))
    with _watched(folder) as watching:
        space = Workspace(folder, watching)
        try:
            with ExitStack() as stack:
                for signum in (signal.SIGTERM, signal.SIGHUP):
                    if signal.getsignal(signum) in (None, signal.SIG_DFL):
                        stack.enter_context(_handler(signum, _exit))
                yield space
        except BackendError:
            space.tell_watchdog(watchdog.KEEP)
            raise
        finally:
            space.end()
            space.tell_watchdog(watchdog.ENDED)


@contextmanager
def _watched(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the watchdog of a workspace; on leaving, let it remove what is left."""
    watching = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, str(folder)],
        cwd=folder.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield watching
    finally:
        watching.communicate()


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


def executable(name: str, environment: Mapping[str, str]) -> str:
    """Return the path of a command, looked up on the PATH of an environment."""
    path = shutil.which(name, path=environment["PATH"])
    if path is None:
        raise BackendError(f"command {name!r} not found beside this Python; pip install fedmaml")
    return path


def _exit(signum: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


@contextmanager
def _handler(signum: int, handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Handle a signal differently for a while; in other threads than the main one, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, before if before is not None else signal.SIG_DFL)
