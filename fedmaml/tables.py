"""Tables on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmaml.auditing import Audit
from fedmaml.clock import ClockRow
from fedmaml.verification import CheckResult

_console = Console()


def list_table(chosen: Mapping[str, Mapping[str, str]]) -> None:
    """Print what there is to choose from."""
    for kind, entries in chosen.items():
        table = Table(title=kind, title_justify="left", show_header=False, box=None, padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, about in entries.items():
            table.add_row(name, escape(about))
        _console.print(table)
        _console.print()


def run_table(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per run: the metric on unseen clients before and after adaptation."""
    table = Table(title=_title(summaries), title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("run", "metric", "before", "after", "95 % interval"):
        right = column in ("before", "after")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    names = _names(summaries)
    for name, summary in zip(names, summaries, strict=True):
        for position, metric in enumerate([summary["metric"], *summary["metrics"]]):
            _add_metric(table, "" if position else name, metric)
    _console.print(table)
    _console.print(
        "before/after: mean over the judged clients, before and after adapting on their support "
        "examples; interval: of the mean after adaptation, bootstrap over clients.",
        style="dim",
    )
    for name, summary in zip(names, summaries, strict=True):
        _console.print(f"{name}: {_judged(summary)}; {summary['seconds']:.1f} s")
        _engine_lines(name, summary)
        _cost_lines(name, summary)
        _socket_line(name, summary)
        if "distance_to_closed_form" in summary:
            distance = summary["distance_to_closed_form"]
            _console.print(f"{name}: relative distance to closed form {distance:.1e}")
        for metric in (summary["metric"], *summary["metrics"]):
            for stage, count in metric.get("diverged", {}).items():
                _console.print(
                    f"{name}: {metric['name']} {stage} diverged at {count} of "
                    f"{summary['clients_judged']} clients; lower the adaptation's learning rate",
                    style="yellow",
                )
        if summary["rejected_replies"]:
            _console.print(
                f"{name}: {summary['rejected_replies']} updates were left out; "
                "the reasons are in rounds.jsonl",
                style="yellow",
            )
        if summary["rounds"] and not summary.get("updates_used", 1):
            _console.print(
                f"{name}: no update was used, so what was judged is the model that it began with",
                style="yellow",
            )


def _judged(summary: Mapping[str, Any]) -> str:
    """Say who was judged, and after which round if it was chosen."""
    clients, asked = summary["clients_judged"], summary["clients_asked"]
    text = f"{clients} of {asked} {summary['judged_split']} clients judged"
    if summary["judged_by"] == "last":
        return text
    return (
        f"{text} after round {summary['judged_round']} of {summary['rounds']}, the best on the "
        "validation clients"
    )


def _engine_lines(name: str, summary: Mapping[str, Any]) -> None:
    engines = summary.get("engines", {"planned": {}, "updates": {}})
    for planned in engines["planned"]:
        _console.print(f"{name}: engine {escape(planned)}")
    names = {planned.partition(":")[0] for planned in engines["planned"]}
    for engine, updates in engines["updates"].items():
        if engine not in names:
            _console.print(f"{name}: {updates} updates by engine {escape(engine)}", style="yellow")
    if peak := summary.get("peak_process_bytes"):
        _console.print(f"{name}: largest memory of the process {peak / 2**20:,.0f} MiB")


def estimate_table(estimate: Mapping[str, Any]) -> None:
    """Print what a run will cost: in all, in a round, for a client."""
    columns = {
        f"{estimate['rounds']} rounds": estimate["training"],
        "a round": estimate["per_round"],
        "a client's": estimate["per_client"],
        "judging": estimate["evaluation"],
    }
    title = f"estimate · {estimate['scenario']} · {estimate['strategy']} · {estimate['backend']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for label, key, unit in (
        ("clients asked", "clients", ""),
        ("tensors down", "payload_bytes_down", "B"),
        ("tensors up", "payload_bytes_up", "B"),
        ("messages down", "message_bytes_down", "B"),
        ("messages up", "message_bytes_up", "B"),
        ("operations", "flops", "FLOP"),
    ):
        cells = [scaled(amount[key], unit) if unit else f"{amount[key]:,}"
                 for amount in columns.values()]  # fmt: skip
        table.add_row(label, *cells)
    seconds = estimate["seconds"]
    if seconds:
        each = seconds["round_clients"] + seconds["round_server"]
        total, evaluations = (scaled(seconds[name], "s") for name in ("total", "evaluations"))
        table.add_row("seconds", total, scaled(each, "s"), "", evaluations)
    _console.print(table)
    _console.print(f"engine {escape(estimate['engine'])}")
    _console.print(f"memory of a client's update {scaled(estimate['peak_bytes'], 'B')}")
    if seconds and seconds["peak_process_bytes"]:
        mebibytes = seconds["peak_process_bytes"] / 2**20
        _console.print(f"largest memory of the process {mebibytes:,.0f} MiB")
    note = (
        f"run: training; its seconds are those of the whole run, with start "
        f"({scaled(seconds['start'], 's')}), first round ({scaled(seconds['first_round'], 's')}) "
        "and evaluations."
        if seconds
        else "run: training. Nothing was timed."
    )
    if seconds and estimate["seconds_leave_out"]:
        note += f" Seconds: {estimate['seconds_leave_out']}."
    _console.print(note, style="dim")


def _names(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what tells the runs apart: the strategy, and scenario or seed where they differ."""
    names = []
    for summary in summaries:
        parts = [str(summary["strategy"])]
        if len({other["scenario"] for other in summaries}) > 1:
            parts.insert(0, str(summary["scenario"]))
        if len({other["seed"] for other in summaries}) > 1:
            parts.append(f"seed {summary['seed']}")
        names.append(" ".join(parts))
    return names


def _cost_lines(name: str, summary: Mapping[str, Any]) -> None:
    """Print what a client receives, sends and computes, in two lines; runs of old have no cost."""
    cost = summary.get("cost")
    if not cost or not cost["totals"]["clients"]:
        return
    each, message, seconds = (
        cost[name] for name in ("per_client_and_round", "per_message", "seconds_per_round")
    )
    _console.print(
        f"{name}: a client receives {scaled(each['payload_bytes_down'], 'B')} and sends "
        f"{scaled(each['payload_bytes_up'], 'B')} a round; a node's "
        f"messages have {scaled(message['bytes_down'], 'B')} down and "
        f"{scaled(message['bytes_up'], 'B')} up"
    )
    _console.print(
        f"{name}: its update takes {scaled(each['flops'], 'FLOP')} and "
        f"{scaled(each['peak_bytes'], 'B')} of memory; a round takes "
        f"{scaled(seconds['clients'], 's')} of clients, {scaled(seconds['server'], 's')} of "
        f"server; energy {_energy(cost['energy'])}"
    )


def _socket_line(name: str, summary: Mapping[str, Any]) -> None:
    """Print what crossed the sockets of a deployment, if they were watched."""
    socket = summary.get("cost", {}).get("socket")
    if socket:
        told = [
            f"{scaled(socket[way]['total'], 'B')} {way}, of which "
            f"{scaled(socket[way]['objects'], 'B')} are messages"
            for way in ("down", "up")
        ]
        _console.print(f"{name}: sockets carried {'; '.join(told)}")


def _energy(energy: Mapping[str, Any] | str) -> str:
    """Return the joules of a run, or that they were not measured; runs of old have the words."""
    if isinstance(energy, str) or energy["joules"] is None:
        return "not measured"
    return f"{scaled(energy['joules'], 'J')} ({', '.join(energy['sensors'])})"


def scaled(value: float | None, unit: str) -> str:
    """Return a quantity with a decimal prefix: 12.3 kB."""
    if value is None:
        return "unknown " + unit
    for prefix, size in (
        ("T", 1e12),
        ("G", 1e9),
        ("M", 1e6),
        ("k", 1e3),
        ("", 1.0),
        ("m", 1e-3),
        ("µ", 1e-6),
    ):
        if abs(value) >= 0.9995 * size:  # what rounds up to the next prefix has it
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _add_metric(table: Table, run: str, metric: Mapping[str, Any]) -> None:
    name = metric["name"] + (f" [{metric['unit']}]" if metric["unit"] != "1" else "")
    before, after = _number(metric["before"]), _number(metric["after"])
    table.add_row(run, name, before, after, _interval(metric["ci95"]))
    for steps, values in metric.get("at_steps", {}).items():
        label = f"  after {steps} step{'s' if steps != '1' else ''}"
        table.add_row("", label, "", _number(values["mean"]), _interval(values["ci95"]))
    for shots, values in metric.get("at_shots", {}).items():
        label = f"  after {shots} shot{'s' if shots != '1' else ''}"
        table.add_row("", label, "", _number(values["mean"]), _interval(values["ci95"]))


def check_table(results: Sequence[CheckResult], tolerance: float) -> None:
    """Print one row per check."""
    title = "What clients send, against references"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("strategy", no_wrap=True)
    table.add_column("reference")
    table.add_column("relative error", justify="right", no_wrap=True)
    table.add_column("")
    for result in results:
        good = result.relative_error <= tolerance
        verdict = "[green]ok[/]" if good else "[red]WRONG[/]"
        table.add_row(result.strategy, result.reference, f"{result.relative_error:.1e}", verdict)
    _console.print(table)
    _console.print(f"float64; a relative error above {tolerance:g} is wrong.", style="dim")


def audit_table(audit: Audit) -> None:
    """Print what was found, what was looked at, and what was not."""
    styles = {"leak": "bold red", "warning": "yellow", "note": ""}
    meant = [finding for finding in audit.findings if finding.expected]
    for kind, why in dict.fromkeys((finding.kind, finding.expected) for finding in meant):
        _console.print(f"expected: {kind}: {escape(why)}\n", highlight=False, soft_wrap=True)
    for finding in [finding for finding in audit.findings if not finding.expected]:
        style = styles[finding.severity]
        _console.print(f"{finding.severity}: {finding.kind}", style=style, highlight=False)
        _console.print(f"  {escape(finding.detail)}", highlight=False)
        if finding.clients:
            named = ", ".join(map(str, finding.clients))
            _console.print(f"  clients: {named}", highlight=False)
        _console.print(f"  what to do: {escape(finding.cure)}\n", highlight=False)
    table = Table(title="Looked at", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("for", "clients", "of", "how"):
        right = column in ("clients", "of")
        table.add_column(column, justify="right" if right else "left")
    for check in audit.checked:
        table.add_row(check.kind, f"{check.clients:,}", f"{check.of:,}", escape(check.how))
    _console.print(table)
    for missing in audit.not_checked:
        _console.print(f"not checked: {missing.kind}: {escape(missing.why)}", style="yellow")
    count = f"{len(audit.findings)} found"
    if not audit.findings:
        _console.print("nothing found")
    elif len(meant) == len(audit.findings):
        _console.print(f"{count}, as expected")
    else:
        others = f", {len(meant)} of them expected" if meant else ""
        whose = "the others" if meant else "them"
        _console.print(f"{count}{others}, {len(audit.alarming)} of {whose} more than notes")


def clock_table(rows: Sequence[ClockRow]) -> None:
    """Print one table per profile: simulated times, and who is first to the target."""
    for profile in dict.fromkeys(row.profile for row in rows):
        _clock_of_profile(profile, [row for row in rows if row.profile == profile])
    _console.print(
        "Simulated: the slowest client of every round, from the run's own bytes and operations; "
        "without the server's time and framing (docs/costs.md). link + device = round.",
        style="dim",
    )


def _clock_of_profile(profile: str, rows: Sequence[ClockRow]) -> None:
    title = f"SIMULATED wall-clock time on {profile}"
    if rows[0].target is not None:
        title += f"; target: {rows[0].metric} {rows[0].target:g} on validation clients"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("run", overflow="fold", min_width=10)
    columns = ["rounds", "link", "device", "round", "all"]
    columns += [] if rows[0].target is None else ["to target", "there"]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = [row.seconds_link, row.seconds_device, row.seconds_per_round, row.seconds_total]
        times = ["–" if value is None else scaled(value, "s") for value in cells]
        told = [] if row.target is None else _reached(row)
        table.add_row(escape(row.run), str(row.rounds), *times, *told)
    _console.print(table)
    if rows[0].target is not None:
        _console.print(f"{_first(rows)} (simulated, {profile})", highlight=False)
        _console.print()


def _reached(row: ClockRow) -> list[str]:
    if row.seconds_to_target is not None:
        return [scaled(row.seconds_to_target, "s"), str(row.reached_round)]
    return ["never" if row.best is None else f"best {row.best:.3f}", "never"]


def _first(rows: Sequence[ClockRow]) -> str:
    """Say in a sentence which run is first to the target."""
    goal = f"{rows[0].metric} {rows[0].target:g}"
    times = {row.run: row.seconds_to_target for row in rows if row.seconds_to_target is not None}
    if not times:
        return f"No run reaches {goal} on validation clients"
    least = min(times.values())
    first = [run for run, seconds in times.items() if seconds == least]
    return f"First to {goal}: {escape(', '.join(first))}, after {scaled(least, 's')}"


def _title(summaries: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for key in ("scenario", "backend", "rounds", "seed"):
        values = list(dict.fromkeys(str(summary[key]) for summary in summaries))
        parts.append(f"{key} {', '.join(values)}")
    return " · ".join(parts)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if 0.01 <= abs(value) < 1e4 else f"{value:.3g}"


def _interval(bounds: Sequence[float] | None) -> str:
    return "–" if bounds is None else f"{_number(bounds[0])} .. {_number(bounds[1])}"
