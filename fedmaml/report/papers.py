"""Figures and tables of runs for articles: files of a given width and format."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fedmaml.comparison import cells
from fedmaml.core.errors import ConfigurationError
from fedmaml.report import tables, words
from fedmaml.report.canvas import STYLES, Style, render
from fedmaml.report.figures import NAMES, draw
from fedmaml.report.reading import Material
from fedmaml.tables.latex import to_float
from fedmaml.tables.table import Table, to_csv

FORMATS = ("pdf", "svg", "png")
TABLES = ("results", "clients", "cost")
_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
_MIN, _MAX = 2.0, 20.0


def style_of(name: str, width: str | None) -> Style:
    """Return a style, of another width if one is given.

    Args:
        name: A key of `canvas.STYLES`.
        width: A number and a unit, "3.25in"; None: as the style says.

    Raises:
        ConfigurationError: If one of them is unknown, or the width is no width of a page.
    """
    if name not in STYLES:
        raise ConfigurationError(f"--style {name!r}: known: {', '.join(STYLES)}")
    style = STYLES[name]
    if width is None:
        return style
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(in|cm|mm|pt)\s*", width)
    inches = float(found[1]) * _INCHES[found[2]] if found else 0.0
    if not _MIN <= inches <= _MAX:
        raise ConfigurationError(
            f"--width {width!r}: give a number and a unit (in, cm, mm, pt) from {_MIN:g}in to "
            f"{_MAX:g}in, e.g. 3.25in for one column of two, 6.75in for both"
        )
    return replace(style, width=inches)


def format_of(name: str) -> str:
    """Return a format that is known.

    Raises:
        ConfigurationError: If it is not.
    """
    if name not in FORMATS:
        raise ConfigurationError(f"--format {name!r}: known: {', '.join(FORMATS)}")
    return name


def names_in(folder: Path, kind: str) -> list[Path]:
    """Return the files of these names, and those of figures, that a folder holds or may get."""
    drawn = [path for name in NAMES for ending in (kind, "csv")
             for path in folder.glob(f"{name}.{ending}")]  # fmt: skip
    return [*drawn, *(folder / f"table-{name}.tex" for name in TABLES)]


def files_of(material: Material, folder: Path, style: Style, kind: str) -> dict[Path, bytes]:
    """Return the content of every file: figures, the numbers of each, and tables for LaTeX."""
    files: dict[Path, bytes] = {}
    for drawing in draw(material):
        drawn, _ = render(drawing, style, (kind,))
        files[folder / f"{drawing.name}.{kind}"] = drawn[kind]
        rows = tuple(tuple("" if one is None else str(one) for one in row) for row in drawing.rows)
        numbers = to_csv(Table(drawing.title, drawing.header, rows))
        files[folder / f"{drawing.name}.csv"] = numbers.encode()
    for name, table, first in _tables(material):
        label = f"tab:{material.scenario}-{name}"
        files[folder / f"table-{name}.tex"] = to_float(table, label, style.width, first).encode()
    return files


def _tables(material: Material) -> Iterator[tuple[str, Table, tuple[str, ...]]]:
    """Yield the name of each table, itself, and its most important columns."""
    if material.comparison is not None:
        yield "results", cells.for_papers(material.comparison), cells.IMPORTANT
    else:
        yield "results", tables.outcomes(material), ("after", "95 % interval", "before adapting")
    metric = words.capital(words.metric_label(material.metric))
    clients = replace(
        tables.distribution(material),
        caption=f"{metric} on {material.scenario} from client to client after adaptation: the "
        f"{material.evaluated} clients of all seeds together",
    )
    yield "clients", clients, ("mean", "std. deviation", "worst decile", "median")
    cost = replace(
        tables.cost(material),
        caption=f"Cost of training on {material.scenario}; received, sent, operations and memory "
        "are of one client in one round",
    )
    yield "cost", cost, ("received", "sent", "operations", "payload, all", "operations, all")
