"""What an audit says, as data."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Severity = Literal["leak", "warning", "note"]
"""leak: a figure is not what it says it is. warning: it may not be. note: say so beside it."""

KINDS = {
    "support-query-overlap": "query examples that are in the support set of their own task",
    "duplicates-across-clients": "examples that a training client and another, evaluated one share",
    "test-clients-in-training": "clients that train and are evaluated",
    "test-examples-in-training": "query examples of a client that it has trained on",
    "statistics-from-test-data": "inputs that were centred with the examples of evaluated clients",
    "transductive-prediction": "predictions that depend on the other query examples",
    "state-between-calls": "predictions that depend on what was predicted before",
}
"""Everything that is looked for; docs/auditing.md says how."""

_MAX_CLIENTS = 20


@dataclass(frozen=True)
class Finding:
    """Something that a reader of the results must know.

    Attributes:
        kind: A key of `KINDS`.
        severity: How much it harms.
        detail: What was found, with counts; never contains data values.
        cure: What to do.
        clients: Numbers of the first clients concerned.
        expected: Why the scenario is made so; "" if it does not say that it is.
    """

    kind: str
    severity: Severity
    detail: str
    cure: str
    clients: tuple[int, ...] = ()
    expected: str = ""


@dataclass(frozen=True)
class Checked:
    """Something that was looked at.

    Attributes:
        kind: A key of `KINDS`.
        clients: How many clients were looked at.
        of: How many there are.
        how: On what the answer rests.
    """

    kind: str
    clients: int
    of: int
    how: str


@dataclass(frozen=True)
class NotChecked:
    """Something that could not be looked at.

    Attributes:
        kind: A key of `KINDS`.
        why: What stands in the way.
    """

    kind: str
    why: str


@dataclass(frozen=True)
class Audit:
    """What was found, what was looked at, and what was not."""

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
        """Return the findings that are more than notes, and that nobody expects."""
        return tuple(
            finding
            for finding in self.findings
            if finding.severity != "note" and not finding.expected
        )

    def expecting(self, expected: Mapping[str, str]) -> "Audit":
        """Return the same with the findings marked of which a scenario says that it is made so.

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
        """Return one line that names what is alarming; "" if nothing is."""
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
