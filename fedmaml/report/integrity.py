"""Possible faults of runs: rejected updates and findings of leakage audits."""

from collections import Counter
from dataclasses import dataclass

from fedmaml.core.findings import KINDS, audit_from_json
from fedmaml.core.records import REASONS
from fedmaml.quantities import resumed
from fedmaml.report import words
from fedmaml.report.reading import Material
from fedmaml.tables.table import Table

_EXPECTED = "expected"


@dataclass(frozen=True)
class Audited:
    """The leakage audits of all runs.

    Attributes:
        checked: The checks that were made.
        not_checked: The checks that were not made, and why.
        findings: The findings; None if there are none.
        alarming: Whether there is a leak or a warning that the scenario does not expect.
    """

    checked: tuple[str, ...]
    not_checked: tuple[str, ...]
    findings: Table | None
    alarming: bool


def rejected(material: Material) -> Table | None:
    """Return which clients' updates were left out and why; None if none was."""
    rows = []
    for name, runs in material.runs.items():
        counts: Counter[tuple[str, str]] = Counter()
        rounds: dict[tuple[str, str], set[tuple[int, int]]] = {}
        for run in runs:
            for record in run.rounds:
                for rejection in record["rejected"]:
                    key = (rejection["reason"], rejection["detail"])
                    counts[key] += len(rejection["clients"])
                    rounds.setdefault(key, set()).add((run.table["seed"], record["round"]))
        rows += [
            (
                words.shown(name),
                reason,
                REASONS.get(reason, "a reason that this version does not know"),
                detail,
                str(count),
                str(len(rounds[reason, detail])),
            )
            for (reason, detail), count in counts.most_common(10)
        ]
    header = ("strategy", "reason", "which means", "detail", "updates", "rounds")
    return Table("Updates that were left out", header, tuple(rows), (0, 1, 2, 3)) if rows else None


def interruptions(material: Material) -> tuple[str, ...]:
    """Return a sentence for each run that was interrupted and resumed."""
    return tuple(
        f"{words.shown(name)}, seed {run.table['seed']}: {resumed(run.summary['resumed_after'])}"
        for name, runs in material.runs.items()
        for run in runs
        if run.summary.get("resumed_after")
    )


def audit(material: Material) -> Audited:
    """Return the results of the runs' leakage audits."""
    checked: dict[str, None] = {}
    not_checked: dict[str, None] = {}
    rows: Counter[tuple[str, ...]] = Counter()
    for name, runs in material.runs.items():
        for run in runs:
            found = audit_from_json(run.summary["audit"])
            made = [one.kind for one in found.checked]
            why = {one.kind: f" ({one.why})" for one in found.not_checked}
            checked |= dict.fromkeys(
                _named(kind) + (f", in part{why[kind]}" if kind in why else "") for kind in made
            )
            not_checked |= dict.fromkeys(_named(kind) + why[kind] for kind in why
                                         if kind not in made)  # fmt: skip
            rows.update(
                (words.shown(name), _EXPECTED, one.kind, one.detail, f"nothing: {one.expected}")
                if one.expected
                else (words.shown(name), one.severity, one.kind, one.detail, one.cure)
                for one in found.findings
            )
    header = ("strategy", "severity", "kind", "what was found", "what to do", "runs")
    lines = tuple((*key, str(count)) for key, count in rows.items())
    table = Table("Findings", header, lines, (0, 1, 2, 3, 4)) if rows else None
    alarming = any(row[1] not in ("note", _EXPECTED) for row in lines)
    return Audited(tuple(checked), tuple(not_checked), table, alarming)


def _named(kind: str) -> str:
    return KINDS.get(kind, kind)
