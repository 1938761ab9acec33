"""A comparison on the terminal, and as Markdown, CSV, LaTeX and JSON.

The files hold no times, dates or paths, so that the same command gives the same bytes.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fedmaml.comparison import cells
from fedmaml.comparison.conclusions import Comparison
from fedmaml.comparison.references import about
from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.core.counters import Units
from fedmaml.runs.writing import write_all
from fedmaml.tables.latex import PAGE, to_float
from fedmaml.tables.table import Table, on_terminal, to_csv, to_markdown

LEGEND = (
    "No gradient trains a reference; same clients and seeds. Strategy against reference: + better, "
    "- worse, ~ not distinguishable, · one seed, ? diverged"
)


def print_comparison(comparison: Comparison, paths: Sequence[Path]) -> None:
    """Print answer, tables, one sentence per strategy, and what limits the answer."""
    console = Console(highlight=False)
    console.print(comparison.headline, style="bold")
    _print(console, cells.verdicts(comparison))
    for row in comparison.rows:
        console.print(row.sentence, markup=False)
    console.print()
    if comparison.references:
        _print(console, cells.references(comparison), folded=True)
        for reference in comparison.references:
            console.print(about(reference), style="dim", markup=False)
        console.print(f"{LEGEND}; in words in comparison.md", style="dim", markup=False)
        console.print()
    matrix = cells.pairs(comparison)
    if sum(width + 2 for width in matrix.widths()) <= console.width:
        _print(console, matrix)
        console.print(f"{cells.LEGEND}; in words in comparison.md", style="dim", markup=False)
        console.print()
    if comparison.figures:
        _print(console, cells.figures(comparison))
    _print(console, cells.took(comparison))
    if cells.counter_names(comparison):
        _print(console, cells.spent(comparison))
    if comparison.tuning:
        _print(console, cells.tuning(comparison))
    for note in comparison.notes:
        console.print(note, style="dim", markup=False)
    names = ", ".join(path.name for path in paths)
    console.print(f"In {paths[0].parent}: {names}", markup=False, soft_wrap=True)


def _print(console: Console, table: Table, *, folded: bool = False) -> None:
    console.print(on_terminal(table, folded=folded, title_style="dim"))


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
    lines = [f"# {comparison.headline}", "", f"{cells.title(comparison)}.", ""]
    lines += to_markdown(cells.verdicts(comparison))
    lines += ["", *(f"- {row.sentence}" for row in comparison.rows), ""]
    for note in comparison.notes:
        lines += [note, ""]
    if comparison.figures:
        lines += ["## Further metrics and figures", "", "Means over seeds; intervals: of the "
                  "differences, 95 %.", ""]  # fmt: skip
        lines += to_markdown(cells.figures(comparison))
        lines += ["", *(f"- {row.label}: {row.sentence}" for row in comparison.figures
                        if row.strategy != REFERENCE), ""]  # fmt: skip
    lines += ["## What training took", "", "Mean over seeds, all rounds.", ""]
    lines += to_markdown(cells.took(comparison))
    if cells.counter_names(comparison):
        lines += ["", f"{cells.SPENT}:", "", *to_markdown(cells.spent(comparison))]
    lines += ["", "## Every two strategies", "", f"{cells.LEGEND}.", ""]
    lines += to_markdown(cells.pairs(comparison))
    lines += ["", *(f"- {pair.sentence}" for pair in comparison.pairs)]
    if comparison.references:
        against = cells.references(comparison)
        lines += ["", "## References", "", f"{against.caption}. {LEGEND}.", ""]
        lines += [*to_markdown(against), ""]
        lines += [f"- {about(row)}" for row in comparison.references]
        lines += [f"- {pair.sentence}" for row in comparison.references for pair in row.against]
    if comparison.tuning:
        lines += ["", "## Tuning", "", "Mean over the validation clients of the trials' seed.", ""]
        lines += to_markdown(cells.tuning(comparison))
    common, own = _split_settings(comparison)
    lines += ["", "## Settings", "", f"All: {_assignments(common)}", ""]
    lines += [f"- {name}: {_assignments(settings)}" for name, settings in own.items()]
    return "\n".join(lines) + "\n"


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
    """Return numbers in full; empty where there is none."""
    rows = (tuple("" if cell is None else str(cell) for cell in line) for line in lines)
    return to_csv(Table("", tuple(header), tuple(rows)))


def as_latex(comparison: Comparison) -> str:
    """Return a table for two columns of an article; `fedmaml figures` writes narrower ones."""
    table = cells.for_papers(comparison)
    if comparison.took:
        table = _beside(table, cells.took(comparison), 3)
    if cells.counter_names(comparison):
        table = _beside(table, cells.spent(comparison), 1)
    return f"% {comparison.headline}\n" + to_float(
        table, f"tab:{comparison.scenario}", PAGE, cells.IMPORTANT
    )


def _beside(table: Table, other: Table, first: int) -> Table:
    """Return a table with the columns of another from ``first`` on; the rows are of the same."""
    rows = tuple((*a, *b[first:]) for a, b in zip(table.rows, other.rows, strict=True))
    return replace(table, header=(*table.header, *other.header[first:]), rows=rows)


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
