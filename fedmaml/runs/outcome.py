"""Whether a finished run learned anything, and what to change if it did not."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from fedmaml.config import flatten_table
from fedmaml.runs.directory import RunDirectory

_TOO_LARGE = {"NONFINITE", "RANGE"}
_BESIDE = {"RULE", "DATA"}  # where nothing is left, no rule can be applied; data are not training


def what_went_wrong(summary: Mapping[str, Any]) -> str:
    """Return why a finished run learned or evaluated nothing; "" if it did both."""
    if summary["rounds"] and not summary["updates_used"]:
        return f"in {summary['rounds']} rounds not one client's update could be used"
    if summary["clients_asked"] and not summary["clients_evaluated"]:
        split = summary["evaluated_split"]
        return f"not one of {summary['clients_asked']} {split} clients could be evaluated"
    return ""


def diverged_from(directory: RunDirectory) -> int:
    """Return the round from which on training had diverged in a finished run; 0 if it had not.

    That is, from there to the end no update could be used, every update that was left out was
    infinite or too large, and the evaluated model is the one from which these updates were
    computed. Its evaluation proves nothing. One bad last round after good ones does not count.
    """
    summary = directory.summary()
    if summary is None or not summary["rounds"]:
        return 0
    lost = list(takewhile(lambda record: not record["clients"], reversed(directory.rounds())))
    if not lost or (len(lost) == 1 and summary["rounds"] > 1):
        return 0
    reasons = {entry["reason"] for record in lost for entry in record["rejected"]}
    first = int(lost[-1]["round"])
    sure = bool(reasons & _TOO_LARGE) and reasons <= _TOO_LARGE | _BESIDE
    return first if sure and summary["evaluated_round"] >= first - 1 else 0


def has_diverged(directory: RunDirectory) -> bool:
    """Return whether training diverged in a finished run, see `diverged_from`."""
    return bool(diverged_from(directory))


def rates_of_training(table: Mapping[str, Any], diverged_from: int = 1) -> dict[str, float]:
    """Return the settings of a run that can make updates too large, by dotted key.

    These are the step sizes of clients and the weight of a proximal term; after the first round,
    which does not depend on it, also the outer rate.
    """
    others = ("adaptation",) if diverged_from > 1 else ("adaptation", "outer")
    return {
        key: value
        for key, value in flatten_table(table).items()
        if key.rpartition(".")[2] in ("lr", "mu") and key.partition(".")[0] not in others
    }


def what_to_lower(rates: Mapping[str, float]) -> str:
    """Return "lower inner.lr (now 3)"."""
    named = [f"{key} (now {value:g})" for key, value in rates.items()]
    return f"lower {' or '.join(named)}" if named else "lower what it learns with"
