"""A comparison on the terminal, and as Markdown, CSV, LaTeX and JSON.

The files hold no times, dates or paths, so that the same command gives the same bytes.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fedmaml.conclusions import Comparison
from fedmaml.core.errors import RunDirectoryError
from fedmaml.verdicts import REFERENCE, Row, number, p_text, signed

_HEADER = ("strategy", "rounds", "before", "after", f"vs {REFERENCE}", "95 % interval", "p")


def print_comparison(comparison: Comparison, paths: Sequence[Path]) -> None:
    """Print answer, table, one sentence per strategy, and what limits the answer."""
    console = Console(highlight=False)
    console.print(comparison.headline, style="bold")
    table = Table(
        title=_title(comparison), title_justify="left", title_style="dim", box=box.SIMPLE_HEAD
    )
    for position, column in enumerate(_HEADER):
        if position == 0:
            table.add_column(column, overflow="fold")  # gives way if the terminal is narrow
        else:
            table.add_column(column, justify="right", no_wrap=True)
    colours = {"better": "green", "worse": "red", "diverged": "yellow"}
    for row in comparison.rows:
        table.add_row(*_cells(row), style=colours.get(row.verdict))
    console.print(table)
    for row in comparison.rows:
        console.print(row.sentence, markup=False)
    console.print()
    for note in comparison.notes:
        console.print(note, style="dim", markup=False)
    names = ", ".join(path.name for path in paths)
    console.print(f"In {paths[0].parent}: {names}", markup=False, soft_wrap=True)


def write_files(comparison: Comparison, out: Path) -> list[Path]:
    """Write ``comparison.md``, ``.csv``, ``.tex`` and ``.json``; return their paths.

    Raises:
        RunDirectoryError: If the folder cannot be written to.
    """
    forms: dict[str, Callable[[Comparison], str]] = {
        "md": as_markdown,
        "csv": as_csv,
        "tex": as_latex,
        "json": lambda made: json.dumps(as_table(made), indent=2) + "\n",
    }
    paths = []
    for ending, form in forms.items():
        path = out / f"comparison.{ending}"
        temporary = out / f".comparison.{ending}.tmp"
        try:
            temporary.write_text(form(comparison), encoding="utf-8", newline="\n")
            temporary.replace(path)
        except OSError as error:
            raise RunDirectoryError(f"cannot write {path}: {error.strerror}") from error
        paths.append(path)
    return paths


def as_table(comparison: Comparison) -> dict[str, Any]:
    """Return everything as plain values, ready for JSON."""
    return asdict(comparison) | {"reference": REFERENCE}


def as_markdown(comparison: Comparison) -> str:
    """Return answer, table, sentences, notes and settings as Markdown."""
    lines = [f"# {comparison.headline}", "", f"{_title(comparison)}.", ""]
    lines += ["| " + " | ".join(_HEADER) + " |", "|---" + "|---:" * (len(_HEADER) - 1) + "|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in comparison.rows]
    lines += ["", *(f"- {row.sentence}" for row in comparison.rows), ""]
    for note in comparison.notes:
        lines += [note, ""]
    common, own = _split_settings(comparison)
    lines += ["## Settings", "", f"All: {_assignments(common)}", ""]
    lines += [f"- {name}: {_assignments(settings)}" for name, settings in own.items()]
    return "\n".join(lines) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Return one line per strategy, numbers in full; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["scenario", "metric", "unit", "better", "seeds", "clients", "strategy", "rounds", "before",
         "after", "difference", "difference_low", "difference_high", "p_clients", "p_seeds",
         "p_holm", "verdict"]
    )  # fmt: skip
    metric = comparison.metric
    for row in comparison.rows:
        writer.writerow(
            [comparison.scenario, metric.name, metric.unit, metric.better, comparison.seeds,
             comparison.clients, row.strategy, row.rounds, row.before, row.after, row.difference,
             *(row.difference_ci95 or (None, None)), row.p_clients, row.p_seeds, row.p_holm,
             row.verdict]
        )  # fmt: skip
    return text.getvalue()


def as_latex(comparison: Comparison) -> str:
    r"""Return a ``tabular`` for ``\input``; it needs the package booktabs."""
    lines = [
        f"% {comparison.headline}",
        f"% {_title(comparison)}. Needs \\usepackage{{booktabs}}.",
        r"\begin{tabular}{l" + "r" * (len(_HEADER) - 1) + "}",
        r"\toprule",
        " & ".join(map(_latex, _HEADER)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_latex, _cells(row))) + r" \\" for row in comparison.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    """Escape what LaTeX reads as a command, and write minus signs and "<" as mathematics."""
    if text == "–":
        return "--"
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    text = text.replace("<", "$<$")
    return " ".join(
        f"${word}$" if word[:1] in "+-" and word[1:2].isdigit() else word for word in text.split()
    )


def _title(comparison: Comparison) -> str:
    metric = comparison.metric
    unit = "" if metric.unit == "1" else f" [{metric.unit}]"
    seeds = "1 seed" if comparison.seeds == 1 else f"{comparison.seeds} seeds"
    return (
        f"{comparison.scenario} · {metric.name}{unit}, {metric.better} is better · {seeds} × "
        f"{comparison.clients} test clients"
    )


def _cells(row: Row) -> tuple[str, ...]:
    """Return what stands in the table for one strategy."""
    cells = (row.strategy, str(row.rounds), number(row.before), number(row.after))
    if row.strategy == REFERENCE:
        return (*cells, "", "", "")
    bounds = row.difference_ci95
    interval = "–" if bounds is None else f"{signed(bounds[0])} to {signed(bounds[1])}"
    return (*cells, signed(row.difference), interval, p_text(row.p_holm))


def _split_settings(comparison: Comparison) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the settings that all strategies share, and those of each one."""
    reference = comparison.settings[REFERENCE]
    common = {
        key: value
        for key, value in reference.items()
        if all(key in own and own[key] == value for own in comparison.settings.values())
    }
    return common, {
        name: {key: value for key, value in own.items() if key not in common}
        for name, own in comparison.settings.items()
    }


def _assignments(settings: dict[str, Any]) -> str:
    written = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in settings.items()
    }
    return ", ".join(f"{key}={value}" for key, value in written.items()) or "–"
