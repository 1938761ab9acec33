"""What is kept of the first five of ten characters, from the atlas' runs of `class_stream`.

    python -m benchmarks.forgetting [--runs runs/atlas/class_stream] [--json FILE]

Accuracy on the first five characters once five are seen, and once all ten are; what is forgotten,
as a difference and as a share of what was known. Means over streams and seeds.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.comparison.names import display
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.scenarios.class_stream import CLASSES, SHOTS, ClassStream

COLUMNS = {
    "method": ["{label}"],
    "all ten at the end": ["{final:.3f}"],
    "first five, when five are seen": ["{then:.3f}"],
    "first five at the end": ["{now:.3f}"],
    "forgotten": ["{forgotten:.3f}"],
    "share forgotten": ["{share:.0%}"],
}


def row_of(summaries: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the row of one strategy, of the summaries of its runs with several seeds."""
    final, then, now = (mean(column) for column in zip(*map(values_of, summaries), strict=True))
    forgotten = then - now
    return {
        "final": final, "then": then, "now": now, "forgotten": forgotten,
        "share": forgotten / then if then else 0.0,
    }  # fmt: skip


def values_of(summary: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return accuracy at the end, and that of the first five when five are seen, and at the end."""
    first = next(each for each in summary["metrics"] if each["name"] == "halves/first")
    half = str(ClassStream.repeats * SHOTS * CLASSES // 2)
    return summary["metric"]["after"], first["at_shots"][half]["mean"], first["after"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/atlas/class_stream"))
    add_json_option(parser)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for folder in sorted(arguments.runs.iterdir()):
        if runs := sorted(folder.glob("seed*")):
            summaries = [RunDirectory(run).summary() or {} for run in runs]
            rows[folder.name] = {"label": display(folder.name), **row_of(summaries)}
    ordered = dict(sorted(rows.items(), key=lambda item: -item[1]["now"]))
    tables = {"forgetting": Table(COLUMNS, ordered)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables, command="python -m benchmarks.forgetting")


if __name__ == "__main__":
    main()
