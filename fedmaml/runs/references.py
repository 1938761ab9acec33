"""A run's strategy compared with the references of its scenario, client by client."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedmaml.core.statistics import bootstrap_interval, finite, mean_over_clients

if TYPE_CHECKING:
    from fedmaml.core.metrics import Metric

Rows = Sequence[Mapping[str, Any]]
"""One mapping per client: its number and its metrics, as files hold them."""


def against_references(
    references: Rows, clients: Rows, metrics: "Sequence[Metric]"
) -> list[dict[str, Any]]:
    """Return the entry of ``summary.json`` for each reference.

    Differences are the strategy's value after adaptation minus the reference's, paired by client;
    intervals are over the clients of this run.

    Args:
        references: As `RunDirectory.references` returns them.
        clients: The strategy's rows, as `RunDirectory.clients` returns them.
        metrics: The problem's.
    """
    return [_against(reference, clients, metrics) for reference in references]


def values_of(rows: Rows, column: str) -> dict[int, float]:
    """Return client -> value; NaN where undefined, infinite where diverged.

    Clients of a further family are left out: they are reported separately.
    """
    values: dict[int, float] = {}
    for row in rows:
        if row.get("family"):
            continue
        value = row.get(column)
        lost = math.nan if value is None else math.inf  # "diverged"
        values[int(row["client"])] = float(value) if isinstance(value, int | float) else lost
    return values


def label(reference: Mapping[str, Any]) -> str:
    """Return the name of a reference with its remarks."""
    notes = [] if reference["federated"] else ["not federated"]
    notes += ["knows the answer"] if reference["oracle"] else []
    return f"{reference['name']} ({', '.join(notes)})" if notes else str(reference["name"])


def _against(
    reference: Mapping[str, Any], clients: Rows, metrics: "Sequence[Metric]"
) -> dict[str, Any]:
    kept = ("name", "about", "federated", "oracle", "settings", "tuned_on")
    return {key: reference[key] for key in kept} | {
        "clients": len(reference["clients"]),
        "metrics": [
            _metric(metric, reference["clients"], clients)
            for metric in metrics
            if not metric.cells and metric.better != "neither"
        ],
    }


def _metric(metric: "Metric", reference: Rows, clients: Rows) -> dict[str, Any]:
    theirs = values_of(reference, metric.name)
    ours = values_of(clients, f"{metric.name}:after")
    differences = [ours[client] - theirs[client] for client in sorted(ours.keys() & theirs.keys())]
    values = list(theirs.values())
    return {
        "name": metric.name,
        "mean": finite(mean_over_clients(values)),
        "ci95": metric.clipped(bootstrap_interval(values)),
        "difference": finite(mean_over_clients(differences)),
        "difference_ci95": bootstrap_interval(differences),
    }
