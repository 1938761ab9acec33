"""The exit codes of the command line; docs/exit-codes.md says what to do about each."""

import errno

from fedmaml.core.errors import DiskError, DivergedError, FedmamlError, QuorumError

FINISHED = 0
FAILED = 1
USAGE = 2
DIVERGED = 3
QUORUM = 4
DISK = 5
SIGNAL = 128
"""To be added to the number of the signal that ended a command: 129, 130, 143."""

CODES = {
    FINISHED: "finished",
    FAILED: "an error, or a check that found something",
    USAGE: "arguments that the command does not take",
    DIVERGED: "training diverged",
    QUORUM: "too few sites answered for too long; the run can be resumed",
    DISK: "a file could not be written; the run can be resumed",
    SIGNAL + 1: "ended by SIGHUP; the run can be resumed",
    SIGNAL + 2: "ended by Ctrl-C; the run can be resumed",
    SIGNAL + 15: "ended by SIGTERM; the run can be resumed",
}
"""Every code and its meaning."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_CLASS = {DivergedError: DIVERGED, QuorumError: QUORUM, DiskError: DISK}


def exit_code_of(error: Exception) -> int:
    """Return the exit code of a command that ended with an error."""
    if any(isinstance(each, OSError) and each.errno in _FULL for each in (error, error.__cause__)):
        return DISK
    return next((code for cls, code in _OF_CLASS.items() if isinstance(error, cls)), FAILED)


def error_named(name: str, text: str) -> FedmamlError | None:
    """Return an error of a class that has an exit code of its own, by its name; None for others."""
    named = {cls.__name__: cls for cls in _OF_CLASS}
    return named[name](text) if name in named else None
