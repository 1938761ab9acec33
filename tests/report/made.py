"""Runs small enough to check by hand, of clients with values, groups and cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmaml.comparison.verdicts import Metric
from fedmaml.report.reading import Material, Run

ACCURACY = Metric("accuracy", "1", "higher")


def row(client: int, after: Any, *, group: str = "", **columns: Any) -> dict[str, Any]:
    """Return the row of a client; ``group`` is of the label "site"."""
    groups = {"groups": {"site": group}} if group else {}
    return {"client": client, **groups, "accuracy:after": after, **columns}


def reference(name: str, values: Mapping[int, float], **facts: bool) -> dict[str, Any]:
    """Return what ``references.json`` has of a reference."""
    clients = [{"client": client, "accuracy": value} for client, value in values.items()]
    return {"name": name, "federated": True, "oracle": False, "clients": clients} | facts


def run(
    clients: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]] = (),
    *,
    seed: int = 0,
    **metric: Any,
) -> Run:
    """Return a run; the summary has the means of its references."""
    means = [
        {key: one[key] for key in ("name", "federated", "oracle")}
        | {"metrics": [{"name": "accuracy", "mean": _mean(one["clients"], "accuracy")}]}
        for one in references
    ]
    summary = {
        "metric": {"before": None, "after": _mean(clients, "accuracy:after")} | metric,
        "references": means,
        "evaluated_split": "test",
    }
    table = {"seed": seed, "inner": {"steps": 5}}
    return Run(Path("x"), table, summary, [], clients, references)


def material(comparison: Any = None, **runs: tuple[Run, ...]) -> Material:
    """Return runs; whatever is given as their comparison makes them compared."""
    return Material("digits", ACCURACY, runs, comparison, "")


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = [one[column] for one in rows if isinstance(one.get(column), float)]
    return sum(values) / len(values) if values else None
