"""How signals end a command: the first one in order, the second one at once.

The first Ctrl-C, SIGTERM (``kill``, a container's stop) or SIGHUP (a closed terminal) raises
`KeyboardInterrupt`, so that a run saves its state and says how to go on. The second one ends the
process where it stands; what it leaves is what a killed process leaves.
"""

import os
import signal
from types import FrameType
from typing import NoReturn

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_received: list[int] = []


def handle_signals() -> None:
    """Handle them in this process from now on; call it in the main thread."""
    _received.clear()
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)


def exit_code() -> int:
    """Return 128 plus the number of the signal that came first; 0 if none came."""
    return 128 + _received[0] if _received else 0


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    _received.append(number)
    if len(_received) > 1:
        os.write(2, b"\nfedmaml: ended at once\n")
        os._exit(exit_code())
    raise KeyboardInterrupt
