"""A comparison on the terminal, and as Markdown, CSV, LaTeX and JSON.

The files hold no times, dates or paths, so that the same command gives the same bytes.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmaml.comparison import cells
from fedmaml.comparison.cells import Grid
from fedmaml.comparison.conclusions import Comparison
from fedmaml.comparison.references import about
from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.core.counters import Units
from fedmaml.runs.writing import write_all

REFERENCES = "Strategy minus reference"
LEGEND = (
    "No gradient trains a reference; same clients and seeds. Strategy against reference: + better, "
    "- worse, ~ not distinguishable, · one seed, ? diverged"
)

_COLOURS = {"better": "green", "worse": "red", "diverged": "yellow", "not comparable": "yellow"}

_SPENT = "What its examples cost, support + query"


def print_comparison(comparison: Comparison, paths: Sequence[Path]) -> None:
    """Print answer, tables, one sentence per strategy, and what limits the answer."""
    console = Console(highlight=False)
    console.print(comparison.headline, style="bold")
    colours = [_COLOURS.get(row.verdict) for row in comparison.rows]
    _print_grid(console, cells.verdicts(comparison), _title(comparison), colours)
    for row in comparison.rows:
        console.print(row.sentence, markup=False)
    console.print()
    if comparison.references:
        _print_grid(console, cells.references(comparison), REFERENCES, folded=True)
        for reference in comparison.references:
            console.print(about(reference), style="dim", markup=False)
        console.print(f"{LEGEND}; in words in comparison.md", style="dim", markup=False)
        console.print()
    matrix = cells.pairs(comparison)
    if matrix.width() <= console.width:
        _print_grid(console, matrix, "Every two strategies")
        console.print(f"{cells.LEGEND}; in words in comparison.md", style="dim", markup=False)
        console.print()
    if comparison.figures:
        title = "Further metrics and figures; intervals of the differences"
        _print_grid(console, cells.figures(comparison), title)
    _print_grid(console, cells.took(comparison), "What training took, mean over seeds")
    if cells.counter_names(comparison):
        _print_grid(console, cells.spent(comparison), _SPENT)
    if comparison.tuning:
        _print_grid(console, cells.tuning(comparison), "Tuning, on validation clients")
    for note in comparison.notes:
        console.print(note, style="dim", markup=False)
    names = ", ".join(path.name for path in paths)
    console.print(f"In {paths[0].parent}: {names}", markup=False, soft_wrap=True)


def _print_grid(
    console: Console,
    grid: Grid,
    title: str,
    colours: Sequence[str | None] | None = None,
    *,
    folded: bool = False,
) -> None:
    """Print a table; ``folded``: long heads, not cells, take several lines."""
    table = Table(title=escape(title), title_justify="left", title_style="dim", box=box.SIMPLE_HEAD)
    for position, column in enumerate(grid.header):
        if position == 0:
            table.add_column(column, overflow="fold")  # gives way if the terminal is narrow
        else:
            width = max(len(row[position]) for row in grid.rows) if folded else None
            side: Literal["left", "right"] = "left" if position < grid.names else "right"
            table.add_column(column, justify=side, no_wrap=not folded, min_width=width)
    for row, colour in zip(grid.rows, colours or [None] * len(grid.rows), strict=True):
        table.add_row(*map(escape, row), style=colour)
    console.print(table)


def write_files(comparison: Comparison, out: Path) -> list[Path]:
    """Write ``comparison.md``, ``.csv``, ``.tex``, ``.json``, and a ``.csv`` of each other table.

    Returns:
        Their paths.

    Raises:
        RunDirectoryError: If the folder cannot be written to.
    """
    forms: dict[str, Callable[[Comparison], str]] = {
        "comparison.md": as_markdown,
        "comparison.csv": as_csv,
        "comparison.tex": as_latex,
        "comparison.json": lambda made: json.dumps(as_table(made), indent=2) + "\n",
        "pairs.csv": pairs_as_csv,
        "references.csv": references_as_csv,
    }
    if comparison.figures:
        forms["figures.csv"] = figures_as_csv
    files = {out / name: form(comparison).encode() for name, form in forms.items()}
    write_all(files)
    return list(files)


def as_table(comparison: Comparison) -> dict[str, Any]:
    """Return everything as plain values, ready for JSON; counters only where there are any."""
    table = asdict(comparison) | {"reference": REFERENCE}
    for took in table["took"].values():
        if not took["counters"]:
            del took["counters"]
    return table


def as_markdown(comparison: Comparison) -> str:
    """Return answer, tables, sentences, notes and settings as Markdown."""
    lines = [f"# {comparison.headline}", "", f"{_title(comparison)}.", ""]
    lines += _markdown_grid(cells.verdicts(comparison))
    lines += ["", *(f"- {row.sentence}" for row in comparison.rows), ""]
    for note in comparison.notes:
        lines += [note, ""]
    if comparison.figures:
        lines += ["## Further metrics and figures", "", "Means over seeds; intervals: of the "
                  "differences, 95 %.", ""]  # fmt: skip
        lines += _markdown_grid(cells.figures(comparison))
        lines += ["", *(f"- {row.label}: {row.sentence}" for row in comparison.figures
                        if row.strategy != REFERENCE), ""]  # fmt: skip
    lines += ["## What training took", "", "Mean over seeds, all rounds.", ""]
    lines += _markdown_grid(cells.took(comparison))
    if cells.counter_names(comparison):
        lines += ["", f"{_SPENT}:", "", *_markdown_grid(cells.spent(comparison))]
    lines += ["", "## Every two strategies", "", f"{cells.LEGEND}.", ""]
    lines += _markdown_grid(cells.pairs(comparison))
    lines += ["", *(f"- {pair.sentence}" for pair in comparison.pairs)]
    if comparison.references:
        lines += ["", "## References", "", f"{REFERENCES}. {LEGEND}.", ""]
        lines += [*_markdown_grid(cells.references(comparison)), ""]
        lines += [f"- {about(row)}" for row in comparison.references]
        lines += [f"- {pair.sentence}" for row in comparison.references for pair in row.against]
    if comparison.tuning:
        lines += ["", "## Tuning", "", "Mean over the validation clients of the trials' seed.", ""]
        lines += _markdown_grid(cells.tuning(comparison))
    common, own = _split_settings(comparison)
    lines += ["", "## Settings", "", f"All: {_assignments(common)}", ""]
    lines += [f"- {name}: {_assignments(settings)}" for name, settings in own.items()]
    return "\n".join(lines) + "\n"


def _markdown_grid(grid: Grid) -> list[str]:
    numbers = len(grid.header) - grid.names
    lines = ["| " + " | ".join(grid.header) + " |", "|---" * grid.names + "|---:" * numbers + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in grid.rows]


def as_csv(comparison: Comparison) -> str:
    """Return one line per strategy, numbers in full; empty where there is none."""
    metric = comparison.metric
    header = [
        "scenario", "metric", "unit", "better", "seeds", "clients", "strategy", "rounds", "before",
        "after", "difference", "difference_low", "difference_high", "p_clients", "p_seeds",
        "p_holm", "verdict", "payload_bytes", "flops",
    ]  # fmt: skip
    counters = cells.counter_names(comparison)
    header += [f"{name}_{part}" for name in counters for part in ("support", "query")]
    lines = []
    for row in comparison.rows:
        took = comparison.took.get(row.strategy)
        units = [took.counters.get(name, Units()) if took else None for name in counters]
        spent = [value for each in units for value in _parts(each)]
        lines.append(
            [comparison.scenario, metric.name, metric.unit, metric.better, comparison.seeds,
             comparison.clients, row.strategy, row.rounds, row.before, row.after, row.difference,
             *(row.difference_ci95 or (None, None)), row.p_clients, row.p_seeds, row.p_holm,
             row.verdict, took and took.payload_bytes, took and took.flops, *spent]
        )  # fmt: skip
    return _csv(header, lines)


def _parts(units: Units | None) -> tuple[float | None, float | None]:
    return (units.support, units.query) if units else (None, None)


def pairs_as_csv(comparison: Comparison) -> str:
    """Return one line for every two strategies other than the reference."""
    header = [
        "scenario", "metric", "first", "second", "difference", "difference_low", "difference_high",
        "p_clients", "p_seeds", "p_holm", "verdict",
    ]  # fmt: skip
    return _csv(
        header,
        [
            [comparison.scenario, comparison.metric.name, pair.first, pair.second, pair.difference,
             *(pair.difference_ci95 or (None, None)), pair.p_clients, pair.p_seeds, pair.p_holm,
             pair.verdict]
            for pair in comparison.pairs
        ],
    )  # fmt: skip


def references_as_csv(comparison: Comparison) -> str:
    """Return one line for every strategy and reference; only the heads if there are none."""
    header = [
        "scenario", "metric", "reference", "federated", "oracle", "mean", "strategy", "difference",
        "difference_low", "difference_high", "p_clients", "p_seeds", "p_holm", "verdict",
    ]  # fmt: skip
    return _csv(
        header,
        [
            [comparison.scenario, comparison.metric.name, row.name, row.federated, row.oracle,
             row.after, pair.first, pair.difference, *(pair.difference_ci95 or (None, None)),
             pair.p_clients, pair.p_seeds, pair.p_holm, pair.verdict]
            for row in comparison.references for pair in row.against
        ],
    )  # fmt: skip


def figures_as_csv(comparison: Comparison) -> str:
    """Return one line for every figure of every strategy."""
    header = [
        "scenario", "figure", "family", "unit", "better", "resampled", "strategy", "before",
        "after", "after_low", "after_high", "difference", "difference_low", "difference_high",
        "p_units", "p_seeds", "p_holm", "verdict",
    ]  # fmt: skip
    none = (None, None)
    return _csv(
        header,
        [
            [comparison.scenario, row.figure, row.family, row.unit, row.better, row.resampled,
             row.strategy, row.before, row.after, *(row.after_ci95 or none), row.difference,
             *(row.difference_ci95 or none), row.p_units, row.p_seeds, row.p_holm, row.verdict]
            for row in comparison.figures
        ],
    )  # fmt: skip


def _csv(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def as_latex(comparison: Comparison) -> str:
    r"""Return a ``tabular`` for ``\input``; it needs the package booktabs."""
    grid = cells.verdicts(comparison)
    if comparison.took:
        what = cells.took(comparison)
        grid = grid.beside(Grid((what.header[0], *what.header[2:]),
                                tuple((row[0], *row[2:]) for row in what.rows)))  # fmt: skip
    if cells.counter_names(comparison):
        grid = grid.beside(cells.spent(comparison))
    lines = [
        f"% {comparison.headline}",
        f"% {_title(comparison)}. Needs \\usepackage{{booktabs}}.",
        r"\begin{tabular}{l" + "r" * (len(grid.header) - 1) + "}",
        r"\toprule",
        " & ".join(map(_latex, grid.header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_latex, row)) + r" \\" for row in grid.rows),
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
