"""Ends the processes of a workspace, also when the command that started them was killed.

A workspace starts this file as a process of its own, which waits at a pipe. The operating system
closes the pipe when the command ends, however it ends; then the processes that are left are ended,
and the folder of the workspace is removed. Only the standard library is imported, so the process
is small and starts at once.

    stdin   one line for each process: its number; "keep": the folder stays, for its logs;
            "ended": no process is left
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 3.0  # between SIGTERM and SIGKILL; all that is lost is a temporary state
MARK = "FEDMAML_WORKSPACE"  # every descendant inherits it, and is found and ended by it
KEEP, ENDED = "keep", "ended"


def members(folder: Path, started: Collection[int]) -> set[int]:
    """Return the live processes of a workspace, even if they have left our session.

    On Linux: all that carry its mark in their environment or descend from one that does, and those
    in ``started``. Elsewhere: those in ``started``; their descendants watch their parents.
    """
    alive = set(started)
    mark = f"{MARK}={folder}\0".encode()
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


def signal_all(pids: Collection[int], signum: int) -> None:
    """Send a signal to those processes that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


def main() -> None:
    """Wait for the end of the command, then end what it left."""
    folder = Path(sys.argv[1])
    lines = sys.stdin.read().split()
    # A number may be another process's by now; where there is /proc, the mark is sure.
    guess = ENDED not in lines and not Path("/proc/self").exists()
    started = [int(line) for line in lines if line.isdigit()] if guess else []
    for signum in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS
        while (alive := members(folder, started)) and time.monotonic() < deadline:
            signal_all(alive, signum)
            if started:
                break  # there is no way to see whether they have ended
            time.sleep(0.1)
    if KEEP not in lines:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
