"""The estimated cost of a run."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from fedmaml.quantities import quantity, support_and_query
from fedmaml.tables.console import console
from fedmaml.tables.runs import process_memory
from fedmaml.tables.table import Table, on_terminal


def estimate_table(estimate: Mapping[str, Any]) -> None:
    """Print the estimated cost of a run: in all, of a round, of a client."""
    columns = {
        f"{estimate['rounds']} rounds": estimate["training"],
        "a round": estimate["per_round"],
        "a client's": estimate["per_client"],
        "evaluation": estimate["evaluation"],
    }
    title = f"estimate · {estimate['scenario']} · {estimate['strategy']} · {estimate['backend']}"
    rows = []
    for label, key, unit in (
        ("clients selected", "clients", ""),
        ("tensors down", "payload_bytes_down", "B"),
        ("tensors up", "payload_bytes_up", "B"),
        ("messages down", "message_bytes_down", "B"),
        ("messages up", "message_bytes_up", "B"),
        ("operations", "flops", "FLOP"),
    ):
        cells = [quantity(amount[key], unit) if unit else f"{amount[key]:,}"
                 for amount in columns.values()]  # fmt: skip
        rows.append((label, *cells))
    seconds = estimate["seconds"]
    if seconds:
        each = seconds["round_clients"] + seconds["round_server"]
        total, evaluations = (quantity(seconds[name], "s") for name in ("total", "evaluations"))
        rows.append(("seconds", total, quantity(each, "s"), "", evaluations))
    console.print(on_terminal(Table(title, ("", *columns), tuple(rows)), wrap=()))
    console.print(f"engine {escape(estimate['engine'])}")
    console.print(f"memory of a client's update {quantity(estimate['peak_bytes'], 'B')}")
    for counter in estimate["training"]["counters"]:
        said = [
            f"{support_and_query(amount['counters'][counter])} {where}"
            for where, amount in zip(
                (f"in {estimate['rounds']} rounds", "a round", "a client's", "in evaluation"),
                columns.values(),
                strict=True,
            )
        ]
        console.print(f"{counter} (support + query): {', '.join(said)}")
    if seconds and seconds["peak_process_bytes"]:
        console.print(process_memory(seconds["peak_process_bytes"]))
    note = (
        "run: training; its seconds are those of the whole run, with start "
        f"({quantity(seconds['start'], 's')}), first round "
        f"({quantity(seconds['first_round'], 's')}) and evaluations."
        if seconds
        else "run: training. Nothing was timed."
    )
    if seconds and estimate["seconds_leave_out"]:
        note += f" Seconds: {estimate['seconds_leave_out']}."
    console.print(note, style="dim")
