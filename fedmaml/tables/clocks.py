"""How long runs would take on other links and devices."""

from collections.abc import Sequence

from rich.markup import escape

from fedmaml.clock.rows import ClockRow
from fedmaml.quantities import quantity
from fedmaml.tables.console import console
from fedmaml.tables.table import Table, on_terminal


def clock_table(rows: Sequence[ClockRow]) -> None:
    """Print one table per profile: simulated times, and which run reaches the target first."""
    for profile in dict.fromkeys(row.profile for row in rows):
        _clock_of_profile(profile, [row for row in rows if row.profile == profile])
    console.print(
        "Simulated: the slowest client of every round, from the run's own bytes and operations; "
        "without the server's time and framing (docs/costs.md). link + device = round.",
        style="dim",
    )


def _clock_of_profile(profile: str, rows: Sequence[ClockRow]) -> None:
    title = f"SIMULATED wall-clock time on {profile}"
    if rows[0].target is not None:
        title += f"; target: {rows[0].metric} {rows[0].target:g} on validation clients"
    reached = () if rows[0].target is None else ("to target", "there")
    header = ("run", "rounds", "link", "device", "round", "all", *reached)
    table = Table(title, header, tuple(map(_cells, rows)))
    console.print(on_terminal(table, min_width=10))
    if rows[0].target is not None:
        console.print(f"{_first(rows)} (simulated, {profile})", highlight=False)
        console.print()


def _cells(row: ClockRow) -> tuple[str, ...]:
    seconds = (row.seconds_link, row.seconds_device, row.seconds_per_round, row.seconds_total)
    times = ("–" if value is None else quantity(value, "s") for value in seconds)
    return (row.run, str(row.rounds), *times, *([] if row.target is None else _reached(row)))


def _reached(row: ClockRow) -> list[str]:
    if row.seconds_to_target is not None:
        return [quantity(row.seconds_to_target, "s"), str(row.reached_round)]
    return ["never" if row.best is None else f"best {row.best:.3f}", "never"]


def _first(rows: Sequence[ClockRow]) -> str:
    """Return a sentence: which run reaches the target first."""
    goal = f"{rows[0].metric} {rows[0].target:g}"
    times = {row.run: row.seconds_to_target for row in rows if row.seconds_to_target is not None}
    if not times:
        return f"No run reaches {goal} on validation clients"
    least = min(times.values())
    first = [run for run, seconds in times.items() if seconds == least]
    return f"First to {goal}: {escape(', '.join(first))}, after {quantity(least, 's')}"
