"""Rows as a pandas frame, where pandas is installed."""

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def frame(rows: Sequence[dict[str, Any]]) -> "pd.DataFrame | list[dict[str, Any]]":
    """Return a ``pandas.DataFrame`` of rows; without pandas the list of rows itself."""
    if importlib.util.find_spec("pandas") is None:
        return list(rows)
    import pandas

    return pandas.DataFrame(list(rows))


def metric_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each metric and figure of a run's summary."""
    rows = []
    for metric in (summary["metric"], *summary["metrics"], *summary["figures"]):
        low, high = metric["ci95"] or (None, None)
        row = {key: metric[key] for key in ("name", "unit", "better", "before", "after")}
        rows.append(row | {"after_low": low, "after_high": high})
    return rows
