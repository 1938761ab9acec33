"""The findings of an audit, as data."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Severity = Literal["leak", "warning", "note"]
"""leak: a result is wrong. warning: it may be wrong. note: report it beside the result."""

KINDS = {
    "support-query-overlap": "query examples that are in the support set of their own task",
    "duplicates-across-clients": "examples that a training client and another, evaluated one share",
    "test-clients-in-training": "clients that train and are evaluated",
    "test-examples-in-training": "query examples of a client that it has trained on",
    "statistics-from-test-data": "inputs that were centred with the examples of evaluated clients",
    "transductive-prediction": "predictions that depend on the other query examples",
    "state-between-calls": "predictions that depend on what was predicted before",
}
"""Everything an audit searches for; docs/auditing.md says how."""

_MAX_CLIENTS = 20


@dataclass(frozen=True)
class Finding:
    """Something that a reader of the results must know.

    Attributes:
        kind: A key of `KINDS`.
        severity: How serious it is.
        detail: What was found, with counts; never contains data values.
        cure: How to correct it.
        clients: Numbers of the first clients concerned.
        expected: The scenario's reason, if it declares the finding as expected; else "".
    """

    kind: str
    severity: Severity
    detail: str
    cure: str
    clients: tuple[int, ...] = ()
    expected: str = ""


@dataclass(frozen=True)
class Checked:
    """A check that was made.

    Attributes:
        kind: A key of `KINDS`.
        clients: How many clients were looked at.
        of: How many there are.
        how: The method and its limits.
    """

    kind: str
    clients: int
    of: int
    how: str


@dataclass(frozen=True)
class NotChecked:
    """A check that could not be made.

    Attributes:
        kind: A key of `KINDS`.
        why: The reason.
    """

    kind: str
    why: str


@dataclass(frozen=True)
class Audit:
    """Findings, checks that were made, and checks that were not."""

    findings: tuple[Finding, ...] = ()
    checked: tuple[Checked, ...] = ()
    not_checked: tuple[NotChecked, ...] = field(default=())

    def __add__(self, other: "Audit") -> "Audit":
        """Return both."""
        return Audit(
            self.findings + other.findings,
            self.checked + other.checked,
            self.not_checked + other.not_checked,
        )

    @property
    def alarming(self) -> tuple[Finding, ...]:
        """Return the leaks and warnings that the scenario does not expect."""
        return tuple(
            finding
            for finding in self.findings
            if finding.severity != "note" and not finding.expected
        )

    def expecting(self, expected: Mapping[str, str]) -> "Audit":
        """Return the audit with the findings marked that the scenario expects.

        Args:
            expected: Kind of a finding -> why.
        """
        marked = (
            replace(finding, expected=expected.get(finding.kind, "")) for finding in self.findings
        )
        return replace(self, findings=tuple(marked))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "findings": [asdict(entry) | {"clients": [*entry.clients]} for entry in self.findings],
            "checked": [asdict(entry) for entry in self.checked],
            "not_checked": [asdict(entry) for entry in self.not_checked],
        }

    def line(self) -> str:
        """Return one line that names the alarming findings; "" if there are none."""
        if not self.alarming:
            return ""
        named = dict.fromkeys(f"{entry.kind} ({entry.severity})" for entry in self.alarming)
        return f"audit: {', '.join(named)}"


def audit_from_json(table: Mapping[str, Any]) -> Audit:
    """Undo `Audit.to_json`.

    Raises:
        KeyError, TypeError: If it is something else.
    """
    return Audit(
        tuple(
            Finding(**{**entry, "clients": tuple(entry["clients"])}) for entry in table["findings"]
        ),
        tuple(Checked(**entry) for entry in table["checked"]),
        tuple(NotChecked(**entry) for entry in table["not_checked"]),
    )


def first(clients: Collection[int]) -> tuple[int, ...]:
    """Return the clients that a finding names."""
    return tuple(sorted(clients)[:_MAX_CLIENTS])
