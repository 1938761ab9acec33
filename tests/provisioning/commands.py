"""A federation that is set up and run by the documented commands alone, on loopback."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from fedmaml.simulations.backends.processes import free_ports
from tests.commands import COMMAND

PATIENCE = 600.0  # seconds


class Commands:
    """Sites and a coordinator in one folder.

    Args:
        folder: Everything lies here.
        stack: Ends the commands.
        sites: Names of the sites.
        outside: "host:port" where sites find the coordinator; "": the SuperLink itself.
    """

    def __init__(
        self, folder: Path, stack: ExitStack, sites: Sequence[str], outside: str = ""
    ) -> None:
        self.folder, self.sites = folder, tuple(sites)
        self._stack, self._outside = stack, outside
        (port,) = free_ports(1)
        self.listen = f"127.0.0.1:{port}"

    def do(self, *arguments: str) -> str:
        """Run a command to its end; return its output."""
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=self.folder, capture_output=True, text=True, check=False,
            timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command that goes on; its output is in NAME.log."""
        log = self._stack.enter_context((self.folder / f"{name}.log").open("ab"))
        popen = subprocess.Popen([*COMMAND, *arguments], cwd=self.folder, stdout=log, stderr=log)
        self._stack.callback(_end, popen)
        return popen

    def set_up(
        self, data: Callable[[str], Path | None] = lambda _: None, unapproved: Sequence[str] = ()
    ) -> None:
        """Make coordinator and sites, and approve these; each gets its own data."""
        address = self._outside or self.listen.replace("127.0.0.1", "localhost")
        names = [word for site in self.sites for word in ("--site", site)]
        self.do("coordinator", "init", "fed", "--address", address, "--listen", self.listen, *names)
        for number, site in enumerate(self.sites):
            folder = data(site)
            given = ("--data", str(folder)) if folder else ()
            self.do(
                "site", "init", site, "--name", site, "--number", str(number), "--sites",
                str(len(self.sites)), "--coordinator", address, "--ca", "fed/ca.crt", *given,
            )  # fmt: skip
            if site not in unapproved:
                self.do("site", "approve", "fed", f"{site}/node.key.pub", "--name", site)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


def _end(popen: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        popen.terminate()
    try:
        popen.wait(30)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


def wait_for(there: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def rounds_in(run: Path) -> int:
    path = run / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def processes(*words: str) -> list[int]:
    """Return the processes whose command lines hold all of these words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if all(word in command for word in words) and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def kill(*words: str) -> None:
    """End processes at once, as a crash does."""
    found = processes(*words)
    assert found, words
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
