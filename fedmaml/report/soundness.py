"""What may be wrong with runs: updates that were rejected, and what leakage audits say."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmaml.core.records import REASONS
from fedmaml.report.reading import Material
from fedmaml.report.tables import Table

_EXPECTED = "expected"


@dataclass(frozen=True)
class Audited:
    """What the leakage audits of all runs say.

    Attributes:
        checked: What was looked at.
        not_checked: What could not be looked at, and why.
        without: Runs that hold no audit.
        findings: What was found; None if nothing was.
        alarming: Whether a finding is more than a note, and nobody expects it.
    """

    checked: tuple[str, ...]
    not_checked: tuple[str, ...]
    without: tuple[str, ...]
    findings: Table | None
    alarming: bool


def rejected(material: Material) -> Table | None:
    """Return whose updates were left out and why; None if none was."""
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
                name,
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


def audit(material: Material) -> Audited:
    """Return what the leakage audits of the runs say, if the runs hold any."""
    checked: dict[str, None] = {}
    not_checked: dict[str, None] = {}
    without: list[str] = []
    rows: Counter[tuple[str, ...]] = Counter()
    for name, runs in material.runs.items():
        for run in runs:
            audited = run.summary.get("audit")
            if not isinstance(audited, Mapping):
                without.append(f"{name}, seed {run.table['seed']}")
                continue
            checked |= dict.fromkeys(map(_words, audited.get("checked", [])))
            for entry in audited.get("not_checked", []):
                not_checked[f"{_words(entry)} ({entry.get('why', 'no reason given')})"] = None
            for finding in audited.get("findings", []):
                rows[name, *_cells(finding)] += 1
    header = ("strategy", "severity", "kind", "what was found", "what to do", "runs")
    lines = tuple((*key, str(count)) for key, count in rows.items())
    table = Table("Findings", header, lines, (0, 1, 2, 3, 4)) if rows else None
    alarming = any(row[1] not in ("note", _EXPECTED) for row in lines)
    return Audited(tuple(checked), tuple(not_checked), tuple(without), table, alarming)


def _cells(finding: Mapping[str, Any]) -> tuple[str, ...]:
    """Return severity, kind, detail and cure; of what is expected, why it is."""
    severity, kind, detail, cure = (
        str(finding.get(key, "–")) for key in ("severity", "kind", "detail", "cure")
    )
    why = finding.get("expected")
    return (_EXPECTED, kind, detail, f"nothing: {why}") if why else (severity, kind, detail, cure)


def _words(value: Any) -> str:
    return str(value.get("kind", value)) if isinstance(value, Mapping) else str(value)
