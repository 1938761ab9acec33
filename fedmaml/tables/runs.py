"""Results and costs of runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape

from fedmaml.core.statistics import MIN_UNITS
from fedmaml.quantities import quantity, resumed, signed, support_and_query
from fedmaml.runs.left_out import in_words
from fedmaml.runs.references import label
from fedmaml.tables.console import console
from fedmaml.tables.table import Table, on_terminal

MAX_CELLS = 6
"""Cells of a metric that tables show."""


def run_table(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per run: the metric on unseen clients before and after adaptation."""
    header = ("run", "metric or figure", "before", "after", "95 % interval")
    rows: list[tuple[str, ...]] = []
    names = _names(summaries)
    for name, summary in zip(names, summaries, strict=True):
        shown, hidden = without_most_cells(summary["metrics"])
        for position, metric in enumerate([summary["metric"], *shown, *summary["figures"]]):
            rows += _metric_rows("" if position else name, metric)
        for metric, count in hidden.items():
            rows.append(("", f"{metric}: {count} more cells, in summary.json", "", "", ""))
    table = Table(_title(summaries), header, tuple(rows), (0, 1, 4))
    console.print(on_terminal(table, wrap=(1,)))
    console.print(
        "before/after: mean over the evaluated clients, before and after adapting on their support "
        "examples, or a figure over them; interval: 95 %, of the value after adaptation, over such "
        "clients; it says nothing of another training.",
        style="dim",
    )
    _reference_table(names, summaries)
    for name, summary in zip(names, summaries, strict=True):
        _lines_below(name, summary)


def _reference_table(names: Sequence[str], summaries: Sequence[Mapping[str, Any]]) -> None:
    """Print the references at the same clients, and each run's difference to them."""
    if not any(summary["references"] for summary in summaries):
        return
    title = "References: predictors that no gradient trains, at the same clients"
    several = len(summaries) > 1
    run = ("run",) if several else ()
    header = ("reference", "metric", "mean", *run, "run - it", "95 % interval")
    rows: list[tuple[str, ...]] = []
    for name, summary in zip(names, summaries, strict=True):
        for reference in summary["references"]:
            for position, metric in enumerate(reference["metrics"]):
                bounds = metric["difference_ci95"]
                interval = "–" if bounds is None else " to ".join(map(signed, bounds))
                first = "" if position else label(reference)
                run = (name,) if several else ()
                difference = signed(metric["difference"])
                mean = _number(metric["mean"])
                rows.append((first, metric["name"], mean, *run, difference, interval))
    words = (0, 1, 3, 5) if several else (0, 1, 4)
    table = Table(title, header, tuple(rows), words)
    console.print(on_terminal(table, min_width=10, pad_edge=False))
    for text in dict.fromkeys(
        f"{label(reference)}: {reference['about']}{_chosen(reference)}"
        for summary in summaries for reference in summary["references"]
    ):  # fmt: skip
        console.print(text, style="dim", markup=False)
    console.print(
        "run - it: the run after adaptation minus the reference, paired by client; interval: "
        "bootstrap over clients.",
        style="dim",
    )


def _chosen(reference: Mapping[str, Any]) -> str:
    """Return the settings of a reference, and on which clients they were chosen."""
    settings = ", ".join(f"{key}={value}" for key, value in reference["settings"].items())
    if not settings:
        return ""
    if not reference["tuned_on"]:
        return f" ({settings})"
    return f" ({settings}, chosen on {reference['tuned_on']} validation clients)"


def without_most_cells(
    metrics: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], dict[str, int]]:
    """Return the metrics that a table shows, and of whom it leaves out how many cells.

    Numbers that are neither good nor bad, and no cells, are there for figures alone.
    """
    shown: list[Mapping[str, Any]] = []
    cells: dict[str, int] = {}
    for metric in metrics:
        name, _, cell = metric["name"].partition("/")
        cells[name] = cells.get(name, 0) + bool(cell)
        if cells[name] <= MAX_CELLS and (cell or metric["better"] != "neither"):
            shown.append(metric)
    return shown, {name: n - MAX_CELLS for name, n in cells.items() if n > MAX_CELLS}


def _lines_below(name: str, summary: Mapping[str, Any]) -> None:
    """Print evaluated clients, engine, costs, and faults."""
    console.print(f"{name}: {_evaluated(summary)}; {summary['seconds']:.1f} s")
    _engine_lines(name, summary)
    _cost_lines(name, summary)
    _socket_line(name, summary)
    if "distance_to_closed_form" in summary:
        distance = summary["distance_to_closed_form"]
        console.print(f"{name}: relative distance to closed form {distance:.1e}")
    if 0 < summary["families"][""] < MIN_UNITS:
        console.print(f"{name}: no intervals: {MIN_UNITS} clients are needed", style="yellow")
    for figure in summary["figures"]:
        if figure["why"]:
            label = escape(_labelled(figure))
            console.print(
                f"{name}: no interval of {label}: {escape(figure['why'])}", style="yellow"
            )
    for metric in (summary["metric"], *summary["metrics"]):
        for stage, count in metric.get("diverged", {}).items():
            console.print(
                f"{name}: {metric['name']} {stage} diverged at {count} of "
                f"{summary['clients_evaluated']} clients; lower the adaptation's learning rate",
                style="yellow",
            )
    if left_out := summary.get("left_out"):
        console.print(f"{name}: left out {escape(in_words(left_out))}")
    if summary["rejected_replies"]:
        console.print(
            f"{name}: {summary['rejected_replies']} updates were left out; "
            "the reasons are in rounds.jsonl",
            style="yellow",
        )
    if after := summary.get("resumed_after"):
        console.print(f"{name}: {resumed(after)}")
    if summary["rounds"] and not summary["updates_used"]:
        console.print(
            f"{name}: no update was used, so the evaluated model is the initial one",
            style="yellow",
        )


def _evaluated(summary: Mapping[str, Any]) -> str:
    """Return which clients were evaluated, and after which round if it was selected."""
    clients, asked = summary["clients_evaluated"], summary["clients_asked"]
    text = f"{clients} of {asked} {summary['evaluated_split']} clients evaluated"
    for family, count in summary["families"].items():
        text += f", {count} of them {escape(family)}, apart from the others" if family else ""
    if summary["selected_by"] == "last":
        return text
    return (
        f"{text} after round {summary['evaluated_round']} of {summary['rounds']}, the best on the "
        "validation clients"
    )


def _engine_lines(name: str, summary: Mapping[str, Any]) -> None:
    engines = summary["engines"]
    for planned in engines["planned"]:
        console.print(f"{name}: engine {escape(planned)}")
    names = {planned.partition(":")[0] for planned in engines["planned"]}
    for engine, updates in engines["updates"].items():
        if engine not in names:
            console.print(f"{name}: {updates} updates by engine {escape(engine)}", style="yellow")
    if peak := summary["peak_process_bytes"]:
        console.print(f"{name}: {process_memory(peak)}")


def process_memory(peak_bytes: int) -> str:
    """Return how much memory the process of a run needed."""
    return f"largest memory of the process {peak_bytes / 2**20:,.0f} MiB"


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
    """Print what a client receives, sends, computes and spends; nothing without rounds."""
    cost = summary["cost"]
    if not cost["totals"]["clients"]:
        return
    each, message, seconds = (
        cost[name] for name in ("per_client_and_round", "per_message", "seconds_per_round")
    )
    console.print(
        f"{name}: a client receives {quantity(each['payload_bytes_down'], 'B')} and sends "
        f"{quantity(each['payload_bytes_up'], 'B')} a round; a node's "
        f"messages have {quantity(message['bytes_down'], 'B')} down and "
        f"{quantity(message['bytes_up'], 'B')} up"
    )
    operations = quantity(each["flops"], "FLOP") if each["flops"] else "no counted operation"
    console.print(
        f"{name}: its update takes {operations} and "
        f"{quantity(each['peak_bytes'], 'B')} of memory; a round takes "
        f"{quantity(seconds['clients'], 's')} of clients, {quantity(seconds['server'], 's')} of "
        f"server; energy {_energy(cost['energy'])}"
    )
    for counter, units in each.get("counters", {}).items():
        training = support_and_query(cost["totals"]["counters"][counter])
        line = f"{name}: {counter} (support + query): {support_and_query(units)} of a client in a "
        line += f"round, {training} in training"
        if evaluation := cost["evaluation"].get("counters"):
            line += f", {support_and_query(evaluation[counter])} in evaluation"
        console.print(line)


def _socket_line(name: str, summary: Mapping[str, Any]) -> None:
    """Print what crossed the sockets of a deployment, if they were watched."""
    socket = summary["cost"].get("socket")
    if socket:
        parts = [
            f"{quantity(socket[way]['total'], 'B')} {way}, of which "
            f"{quantity(socket[way]['objects'], 'B')} are messages"
            for way in ("down", "up")
        ]
        console.print(f"{name}: sockets carried {'; '.join(parts)}")


def _energy(energy: Mapping[str, Any]) -> str:
    """Return the joules of a run, or that they were not measured."""
    if energy["joules"] is None:
        return "not measured"
    return f"{quantity(energy['joules'], 'J')} ({', '.join(energy['sensors'])})"


def _metric_rows(run: str, metric: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    name = _labelled(metric) + (f" [{metric['unit']}]" if metric["unit"] != "1" else "")
    before, after = _number(metric["before"]), _number(metric["after"])
    yield (run, name, before, after, _interval(metric["ci95"]))
    for steps, values in metric.get("at_steps", {}).items():
        label = f"  after {steps} step{'s' if steps != '1' else ''}"
        yield ("", label, "", _number(values["mean"]), _interval(values["ci95"]))
    for shots, values in metric.get("at_shots", {}).items():
        label = f"  after {shots} shot{'s' if shots != '1' else ''}"
        yield ("", label, "", _number(values["mean"]), _interval(values["ci95"]))


def _labelled(metric: Mapping[str, Any]) -> str:
    """Return the name of a metric or figure, and of whom it is if of other clients."""
    return f"{metric['name']} · {metric['family']}" if metric.get("family") else str(metric["name"])


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
