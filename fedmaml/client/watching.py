"""Whether a process that should compute stands still: stopped (SIGSTOP), or without progress.

Linux says it in /proc; elsewhere every process seems to be at work.
"""

import time
from pathlib import Path
from typing import NamedTuple

STOPPED_LOOKS = 2
"""A process that is found stopped this many times in a row stands still."""


class Look(NamedTuple):
    """What the system says of a process.

    Attributes:
        state: A letter, e.g. "R": running, "S": waiting, "T": stopped.
        ticks: Processor time used.
        at: `time.monotonic` of the look.
    """

    state: str
    ticks: int
    at: float


class Watch:
    """Watches a process.

    Args:
        pid: Its number.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stopped_looks = 0
        self._progress = Look("", 0, time.monotonic())

    def begin(self) -> None:
        """Note that the process is given work now."""
        self._stopped_looks = 0
        self._progress = self._progress._replace(at=time.monotonic())

    def is_stopped(self) -> bool:
        """Return whether the process is stopped."""
        now = look(self._pid)
        return now is not None and now.state == "T"

    def stands_still(self, limit: float) -> bool:
        """Return whether the process is stopped, or has used no processor time for too long.

        Args:
            limit: Seconds without processor time.
        """
        now = look(self._pid)
        if now is None:
            return False
        if now.ticks != self._progress.ticks:
            self._progress = now
        self._stopped_looks = self._stopped_looks + 1 if now.state == "T" else 0
        return self._stopped_looks >= STOPPED_LOOKS or now.at - self._progress.at > limit


def look(pid: int) -> Look | None:
    """Look at a process; None if it is gone, or where there is no /proc."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Look(after_name[0], int(after_name[11]) + int(after_name[12]), time.monotonic())
