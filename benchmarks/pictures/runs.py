"""What pictures read from finished runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedmaml.runs import references
from fedmaml.runs.directory import RunDirectory


def values_of(run: Path, name: str = "") -> dict[int, float]:
    """Return the headline metric of the test clients, by client.

    Args:
        run: A run directory.
        name: Of a reference; "": what the run's strategy has after adaptation.
    """
    metric = RunDirectory(run).summary()["metric"]["name"]
    rows = reference_of(run, name)["clients"] if name else RunDirectory(run).clients()
    return references.values_of(rows, metric if name else f"{metric}:after")


def reference_of(run: Path, name: str) -> Mapping[str, Any]:
    """Return what a run's folder holds about a reference."""
    return next(each for each in RunDirectory(run).references() if each["name"] == name)


def median_client(run: Path) -> int:
    """Return the test client whose metric after adaptation is the (lower) median."""
    values = values_of(run)
    ranked = sorted(values, key=lambda client: (values[client], client))
    return ranked[(len(ranked) - 1) // 2]


def finite_mean(values: Mapping[int, float]) -> float:
    """Return the mean over clients, without undefined values."""
    return float(np.nanmean(list(values.values())))
