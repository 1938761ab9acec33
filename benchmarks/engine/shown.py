"""Rows as tables: contenders of one case, cases beside each other, and the targets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.engine.measure import Row
from benchmarks.engine.targets import evaluated
from benchmarks.tables import PACKAGES as COMMON
from benchmarks.tables import Table

PACKAGES = (*COMMON, "learn2learn", "higher", "torchopt", "ray")
GROUPS = {
    "small networks": (
        "W2-fomaml", "W2-maml", "W2-unequal", "W1-fomaml", "W1-maml", "W1-reptile",
    ),
    "other strategies": ("W2-meta_sgd", "W2-anil", "W2-fedrep", "W2-protonet"),
    "few clients, large layers": (
        "W1-fomaml-25", "W1-maml-25", "W2-fomaml-10", "MLP-1e6", "MLP-1e7",
    ),
    "convolutions": ("W4-fomaml", "W3-fomaml-1", "W3-fomaml", "W3-protonet"),
    "any network": ("W3-maml-1", "C4-fomaml-1", "GRU-fomaml"),
}  # fmt: skip
"""Tables of several cases: time per client and share of the processor's peak."""
_CASE = {
    "contender": ["{name}"],
    "us per client (CPU)": ["{microseconds_per_client:~3}", "{status}"],
    "us (wall)": ["{wall_microseconds_per_client:~3}"],
    "ratio": ["{ratio:.3g}x"],
    "% of peak": ["{peak_percent:~2}"],
    "off by": ["{relative_difference:.0e}"],
    "note": ["{clients} clients, {note}"],
}
_TARGETS = {
    "case": ["{case}"],
    "target": ["{target}"],
    "reached": ["{reached:~3}x ({engine})", "{reached:~3}x"],
    "verdict": ["{verdict}"],
}


def of_case(rows: Sequence[Row]) -> Table:
    """Return the contenders of one case with all that was measured."""
    return Table(_CASE, {row.contender: _values(row) for row in rows})


def tables(rows: Sequence[Row]) -> dict[str, Table]:
    """Return the cases in their groups, each further case by itself, and the targets."""
    cases = dict.fromkeys(row.case for row in rows)
    grouped = {case for group in GROUPS.values() for case in group}
    made = {name: _group(rows, group) for name, group in GROUPS.items() if cases.keys() & {*group}}
    made |= {
        case: of_case([row for row in rows if row.case == case])
        for case in cases
        if case not in grouped
    }
    return made | {"targets": targets(rows)}


def targets(rows: Sequence[Row]) -> Table:
    """Return what fedmaml's best engine must reach, and what it reached."""
    return Table(_TARGETS, evaluated(rows))


def _group(rows: Sequence[Row], cases: Sequence[str]) -> Table:
    columns = {"contender": ["{name}"]} | {
        case: [
            f"{{{case}[microseconds_per_client]:~3}} ({{{case}[peak_percent]:~2}} %)",
            f"{{{case}[status]}}",
        ]
        for case in cases
    }
    by_contender: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row.case in cases:
            by_contender.setdefault(row.contender, {})[row.case] = _values(row)
    return Table(columns, by_contender)


def _values(row: Row) -> dict[str, Any]:
    percent = None if row.peak_fraction is None else 100 * row.peak_fraction
    return asdict(row) | {"peak_percent": percent}
