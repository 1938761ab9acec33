"""Whether the run in a directory is complete, and what it lacks if not."""

from typing import Any, Literal

from fedmaml.core.errors import RunDirectoryError
from fedmaml.runs.directory import RunDirectory


def ending(directory: RunDirectory) -> Literal["finished", "failed", "cut short"]:
    """Return how a run ended; one that goes on is "cut short" by now.

    Raises:
        RunDirectoryError: If its summary is damaged.
    """
    if directory.summary() is not None:
        return "finished"
    return "failed" if directory.failure() else "cut short"


def what_is_missing(directory: RunDirectory) -> str:
    """Return what a run that was cut short lacks; "" if it is complete.

    Raises:
        RunDirectoryError: If its summary is damaged.
    """
    summary = directory.summary()
    if summary is None:
        wanted = directory.config_table().get("rounds")
        return (
            f"there is no summary.json, and rounds.jsonl has {len(directory.rounds())} of "
            f"{wanted} rounds"
        )
    for name, there, wanted in (
        ("rounds.jsonl", len(directory.rounds()), summary["rounds"]),
        ("clients.jsonl", len(directory.clients()), summary["clients_evaluated"]),
    ):
        if there != wanted:
            return f"{name} has {there} of {wanted} lines"
    return "" if directory.has_meta() else "there is no theta.safetensors"


def complete_summary(directory: RunDirectory) -> dict[str, Any]:
    """Return the summary of a run of which nothing is missing.

    Raises:
        RunDirectoryError: If it holds no run, or one that was cut short; says how to finish it.
    """
    directory.config_table()
    missing, path = what_is_missing(directory), directory.path
    summary = directory.summary()
    if missing or summary is None:
        reason = directory.failure()
        go_on = "" if summary else f"go on with: fedmaml run --resume {path}, or "
        raise RunDirectoryError(
            f"the run in {path} is not complete: {missing}"
            + (f"; it failed: {reason}" if reason else "; it was interrupted, or still runs")
            + f"; {go_on}{directory.how_to_repeat()} (a run of a comparison: repeat the fedmaml "
            "compare command, which reuses the others)"
        )
    return summary
