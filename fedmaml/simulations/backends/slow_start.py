"""A ServerApp that does not start in Flower's time: said, and ended when it lasts.

Flower gives a process 30 s from the claim of its task to its first call; then it starts another one
for the same task. On a machine that is too busy each is too late, and they keep each other from
starting: no round begins, and no error is raised. What can be seen are several such processes.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from fedmaml.core.errors import BackendError

SERVER_APP = b"flwr-serverapp"
PATIENCE_SECONDS = 180.0
"""How long several processes may try to start the same task: six of Flower's attempts."""

logger = logging.getLogger("fedmaml")


class SlowStart:
    """Watches for a task that was started more than once; needs /proc, else it sees nothing.

    Args:
        members: Returns the processes of a workspace.
        patience: Seconds that several of them may live at the same time.
        every: Seconds between two looks.
    """

    def __init__(
        self,
        members: Callable[[], Iterable[int]],
        patience: float = PATIENCE_SECONDS,
        every: float = 5.0,
    ) -> None:
        self._members, self._patience, self._every = members, patience, every
        self._next = -math.inf
        self._since: float | None = None
        self._said = False

    def look(self) -> None:
        """Say that a task was started again; end a run in which that lasts.

        Raises:
            BackendError: If several processes have been there for longer than the patience.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        starting = sum(map(_is_server_app, self._members()))
        if starting < 2:
            self._since = None
            return
        if self._since is None:
            self._since = now
        if not self._said:
            self._said = True
            logger.warning(
                "Flower started the ServerApp again, because it took longer than 30 s to start: "
                "this machine is very busy; the run goes on if one of them starts"
            )
        if now - self._since > self._patience:
            raise BackendError(
                f"{starting} processes of the same ServerApp have tried to start for "
                f"{self._patience:.0f} s: Flower starts another one every 30 s, and this machine "
                "is too busy for any. Run it again when it is less busy, or use the in-process "
                "back end."
            )


def _is_server_app(pid: int) -> bool:
    with suppress(OSError):  # it has ended, or there is no /proc
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return any(word.rpartition(b"/")[2] == SERVER_APP for word in words)
    return False
