"""Tables on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

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
        "before/after: mean over the test clients, before and after adapting on their support "
        "examples; interval: of the mean after adaptation, bootstrap over clients.",
        style="dim",
    )
    for name, summary in zip(names, summaries, strict=True):
        asked = summary.get("clients_test_asked", summary["clients_test"])
        _console.print(
            f"{name}: {summary['clients_test']} of {asked} test clients judged; "
            f"{summary['seconds']:.1f} s"
        )
        _engine_lines(name, summary)
        _cost_lines(name, summary)
        if "distance_to_closed_form" in summary:
            distance = summary["distance_to_closed_form"]
            _console.print(f"{name}: relative distance to closed form {distance:.1e}")
        for metric in (summary["metric"], *summary["metrics"]):
            for stage, count in metric.get("diverged", {}).items():
                _console.print(
                    f"{name}: {metric['name']} {stage} diverged at {count} of "
                    f"{summary['clients_test']} clients; lower the adaptation's learning rate",
                    style="yellow",
                )
        if summary["rejected_replies"]:
            _console.print(
                f"{name}: {summary['rejected_replies']} updates were left out; "
                "the reasons are in rounds.jsonl",
                style="yellow",
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
        f"server; energy {cost['energy']}"
    )


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
