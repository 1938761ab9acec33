"""Every exception of fedmaml; a message says what was wrong, what is allowed and what to do.

  FedmamlError
  |- ConfigurationError      a key, a value or a combination of them; raised before anything starts
  |- UnsupportedProblemError a strategy and a problem that cannot go together
  |- DataError               data missing, damaged or unreachable
  |- MessageError            a message between server and client that cannot be used; has a reason
  |- RefusedError            a request that a site refuses; its text may leave the site
  |- BackendError            processes that could not be started, or that failed
  |  |- DivergedError        a run in which no client's update was ever small enough to be used
  |  `- QuorumError          a run that stopped because too few sites answered; it can be resumed
  |- RunDirectoryError       a run directory that is missing, incomplete or already in use
  |  |- DiskError            a file of it that could not be written
  |  `- OtherFormatError     one that another version of fedmaml wrote
  `- NotComparableError      runs that cannot be compared with each other

`described` and `place_of` name the place of any other error, e.g. one in a scenario of another
package.
"""

import sysconfig
from pathlib import Path
from traceback import walk_tb

TRACEBACK = "fedmaml --debug shows the traceback"
"""Ends a message about an error in code outside fedmaml."""

_PACKAGE = Path(__file__).parents[1]
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))


class FedmamlError(Exception):
    """Base of all errors that fedmaml raises on purpose."""


class ConfigurationError(FedmamlError):
    """A configuration that cannot be run."""


class UnsupportedProblemError(FedmamlError):
    """A problem (network, loss) that the chosen strategy cannot work on."""


class DataError(FedmamlError):
    """Data that is missing, damaged or cannot be fetched."""


class MessageError(FedmamlError):
    """A message that cannot be used.

    Attributes:
        reason: One word for machines, e.g. ``"NONFINITE"``; listed in ``core.records.REASONS``.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RefusedError(FedmamlError):
    """A request that a site refuses; the text quotes the request and nothing of the site."""


class BackendError(FedmamlError):
    """A back end that could not be started, or a run that failed on it."""


class DivergedError(BackendError):
    """A run that came to its end, but no update could be used any more: all were too large."""


class QuorumError(BackendError):
    """A run that stopped below its quorum; what was finished before is kept."""


class RunDirectoryError(FedmamlError):
    """A run directory that cannot be read or must not be written."""


class DiskError(RunDirectoryError):
    """A file that could not be written, e.g. because the disk is full."""


class OtherFormatError(RunDirectoryError):
    """A run directory that another version of fedmaml wrote, in a format that is not read."""


class NotComparableError(FedmamlError):
    """Runs that cannot be compared: other tasks, other seeds, no reference."""


def described(error: BaseException) -> str:
    """Return e.g. "IndexError: list index out of range (wards.py, line 41, in tasks)".

    The error's own text may quote data, so the result must not leave the machine.
    """
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    place = place_of(error)
    return f"{text} ({place})" if place else text


def place_of(error: BaseException) -> str:
    """Return file, line and function where an error was raised; "" if it was not raised.

    This is the innermost place in code that is not installed; if there is none, the innermost
    place in fedmaml.
    """
    frames = [
        (Path(frame.f_code.co_filename), line, frame.f_code.co_name)
        for frame, line in walk_tb(error.__traceback__)
    ]
    own = [frame for frame in frames if not _is_installed(frame[0])]
    ours = [frame for frame in frames if frame[0].is_relative_to(_PACKAGE)]
    for path, line, function in (own or ours)[-1:]:
        return f"{path.name}, line {line}, in {function}"
    return ""


def _is_installed(path: Path) -> bool:
    """Return whether a file is of fedmaml, of Python or of an installed package."""
    return (
        path.is_relative_to(_PACKAGE)
        or path.is_relative_to(_STANDARD_LIBRARY)
        or path.name.startswith("<frozen")
        or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    )
