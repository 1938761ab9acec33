"""Results of gradient checks and audits."""

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from fedmaml.auditing import Audit
from fedmaml.tables.console import console
from fedmaml.verification import CheckResult


def check_table(results: Sequence[CheckResult], tolerance: float) -> None:
    """Print one row per check."""
    title = "Updates of clients, compared with references"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("strategy", no_wrap=True)
    table.add_column("reference")
    table.add_column("relative error", justify="right", no_wrap=True)
    table.add_column("")
    for result in results:
        good = result.relative_error <= tolerance
        verdict = "[green]ok[/]" if good else "[red]WRONG[/]"
        table.add_row(result.strategy, result.reference, f"{result.relative_error:.1e}", verdict)
    console.print(table)
    console.print(f"float64; a relative error above {tolerance:g} is wrong.", style="dim")


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
    table = Table(title="Checked", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("for", "clients", "of", "how"):
        right = column in ("clients", "of")
        table.add_column(column, justify="right" if right else "left")
    for check in audit.checked:
        table.add_row(check.kind, f"{check.clients:,}", f"{check.of:,}", escape(check.how))
    console.print(table)
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
