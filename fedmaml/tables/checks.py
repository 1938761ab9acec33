"""Results of gradient checks and audits."""

from collections.abc import Sequence

from rich.markup import escape

from fedmaml.auditing import Audit
from fedmaml.checking import Checked
from fedmaml.tables.console import console
from fedmaml.tables.table import Table, on_terminal
from fedmaml.verification import CheckResult


def check_table(results: Sequence[CheckResult], tolerance: float) -> None:
    """Print one row per check."""
    title = "Updates of clients, compared with references"
    header = ("strategy", "reference", "relative error", "")
    good = [result.relative_error <= tolerance for result in results]
    rows = tuple(
        (result.strategy, result.reference, f"{result.relative_error:.1e}", "ok" if ok else "WRONG")
        for result, ok in zip(results, good, strict=True)
    )
    styles = tuple("green" if ok else "red" for ok in good)
    console.print(on_terminal(Table(title, header, rows, (0, 1, 3), styles), wrap=(1,)))
    console.print(f"float64; a relative error above {tolerance:g} is wrong.", style="dim")


def checked_table(results: Sequence[Checked]) -> None:
    """Print one row per check of a scenario and a strategy."""
    rows = tuple(
        ("ok" if result.passed else "WRONG", result.name, result.detail) for result in results
    )
    styles = tuple("green" if result.passed else "red" for result in results)
    table = Table("Checked", ("", "what", "what was seen"), rows, (0, 1, 2), styles)
    console.print(on_terminal(table, wrap=(2,)))


def audit_table(audit: Audit) -> None:
    """Print the findings, and the checks that were made and not made."""
    styles = {"leak": "bold red", "warning": "yellow", "note": ""}
    meant = [finding for finding in audit.findings if finding.expected]
    for kind, why in dict.fromkeys((finding.kind, finding.expected) for finding in meant):
        console.print(f"expected: {kind}: {escape(why)}\n", highlight=False, soft_wrap=True)
    for finding in [finding for finding in audit.findings if not finding.expected]:
        style = styles[finding.severity]
        console.print(f"{finding.severity}: {finding.kind}", style=style, highlight=False)
        console.print(f"  {escape(finding.detail)}", highlight=False)
        if finding.clients:
            named = ", ".join(map(str, finding.clients))
            console.print(f"  clients: {named}", highlight=False)
        console.print(f"  what to do: {escape(finding.cure)}\n", highlight=False)
    rows = tuple((one.kind, f"{one.clients:,}", f"{one.of:,}", one.how) for one in audit.checked)
    table = Table("Checked", ("for", "clients", "of", "how"), rows, (0, 3))
    console.print(on_terminal(table, wrap=(0, 3)))
    for missing in audit.not_checked:
        console.print(f"not checked: {missing.kind}: {escape(missing.why)}", style="yellow")
    count = f"{len(audit.findings)} found"
    if not audit.findings:
        console.print("nothing found")
    elif len(meant) == len(audit.findings):
        console.print(f"{count}, as expected")
    else:
        others = f", {len(meant)} of them expected" if meant else ""
        whose = "the others" if meant else "them"
        console.print(f"{count}{others}, {len(audit.alarming)} of {whose} more than notes")
