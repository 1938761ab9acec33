"""Every exception of fedmaml; a message says what was wrong, what is allowed and what to do.

FedmamlError
|- ConfigurationError      a key, a value or a combination of them; raised before anything starts
|- UnsupportedProblemError a strategy and a problem that cannot go together
|- DataError               data missing, damaged or unreachable
|- MessageError            a message between server and client that cannot be used; has a reason
|- BackendError            processes that could not be started, or that failed
|  `- DivergedError        a run in which no client's update was ever small enough to be used
|- RunDirectoryError       a run directory that is missing, incomplete or already in use
|  `- OtherFormatError     one that another version of fedmaml wrote
`- NotComparableError      runs that say nothing about each other
"""


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


class BackendError(FedmamlError):
    """A back end that could not be started, or a run that failed on it."""


class DivergedError(BackendError):
    """A run that came to its end, but no update could be used any more: all were too large."""


class RunDirectoryError(FedmamlError):
    """A run directory that cannot be read or must not be written."""


class OtherFormatError(RunDirectoryError):
    """A run directory that another version of fedmaml wrote, in a format that is not read."""


class NotComparableError(FedmamlError):
    """Runs that cannot be held against each other: other tasks, other seeds, no reference."""
