"""Whether a run that came to its end came to something, and what to change if it did not."""

from collections.abc import Mapping
from typing import Any

from fedmaml.config import flatten_table
from fedmaml.server.run_directory import RunDirectory

_TOO_LARGE = {"NONFINITE", "RANGE"}
_CONSEQUENCES = {"RULE"}  # where nothing is left, no rule can be applied


def what_went_wrong(summary: Mapping[str, Any]) -> str:
    """Say why nothing was learned or judged in a run that came to its end; "" if something was."""
    if summary["rounds"] and not summary["updates_used"]:
        return f"in {summary['rounds']} rounds not one client's update could be used"
    if summary["clients_asked"] and not summary["clients_judged"]:
        split = summary["judged_split"]
        return f"not one of {summary['clients_asked']} {split} clients could be judged"
    return ""


def has_diverged(directory: RunDirectory) -> bool:
    """Tell whether training diverged in every round of a finished run.

    That is, no update could be used, and whatever was left out was infinite or too large: the model
    is the one it began with, and nothing may be concluded from how that was judged.
    """
    summary = directory.summary()
    if summary is None or not summary["rounds"] or summary["updates_used"]:
        return False
    reasons = {entry["reason"] for round in directory.rounds() for entry in round["rejected"]}
    return bool(reasons & _TOO_LARGE) and reasons <= _TOO_LARGE | _CONSEQUENCES


def rates_of_training(table: Mapping[str, Any]) -> dict[str, float]:
    """Return what makes the updates of clients too large, by dotted key, of a run's configuration.

    That is their step sizes and the weight of a proximal term. The outer rate is not among them: in
    the first round it has no say.
    """
    return {
        key: value
        for key, value in flatten_table(table).items()
        if key.rpartition(".")[2] in ("lr", "mu")
        and key.partition(".")[0] not in ("outer", "adaptation")
    }


def what_to_lower(rates: Mapping[str, float]) -> str:
    """Return "lower inner.lr (now 3)"."""
    named = [f"{key} (now {value:g})" for key, value in rates.items()]
    return f"lower {' or '.join(named)}" if named else "lower what it learns with"
