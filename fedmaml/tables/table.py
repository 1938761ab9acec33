"""One table as text in cells, and what draws it: terminal, Markdown and CSV.

`latex` draws it for articles, and ``report/table.html.j2`` on the page of a report.
"""

import csv
import io
from dataclasses import dataclass
from typing import Any

from rich import box
from rich import table as rich
from rich.markup import escape


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: What it shows.
        header: Heads of the columns; the first column names the rows.
        rows: Cells; as many in each as there are heads.
        text_columns: Positions of the columns that hold words and not numbers.
        styles: Style of each row on the terminal, in the words of rich; empty: none has one.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: tuple[int, ...] = (0,)
    styles: tuple[str | None, ...] = ()

    def widths(self) -> list[int]:
        """Return the characters of the longest cell of every column, heads included."""
        return [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]


def on_terminal(
    table: Table,
    *,
    wrap: tuple[int, ...] = (0,),
    folded: bool = False,
    min_width: int | None = None,
    **layout: Any,
) -> rich.Table:
    """Return a table for a console of rich.

    Args:
        table: Cells are shown as they are, square brackets, too.
        wrap: Columns whose cells take several lines where the terminal is narrow.
        folded: Heads of the other columns may take several lines, too; their cells do not.
        min_width: Characters that each column of ``wrap`` has at least.
        layout: Arguments of the table of rich.
    """
    usual: dict[str, Any] = {"title_justify": "left", "box": box.SIMPLE_HEAD}
    drawn = rich.Table(title=escape(table.caption), **usual | layout)
    for position, head in enumerate(table.header):
        kind: dict[str, Any] = {"no_wrap": not folded}
        if position in wrap:
            kind = {"overflow": "fold", "min_width": min_width}
        elif folded:
            kind["min_width"] = max(len(row[position]) for row in table.rows)
        kind["justify"] = "left" if position in table.text_columns else "right"
        drawn.add_column(escape(head), **kind)
    for row, style in zip(table.rows, table.styles or [None] * len(table.rows), strict=True):
        drawn.add_row(*map(escape, row), style=style)
    return drawn


def to_markdown(table: Table) -> list[str]:
    """Return the lines of a table in Markdown, without the caption."""
    sides = ("---" if i in table.text_columns else "---:" for i in range(len(table.header)))
    head, *rows = (
        " | ".join(cell.replace("|", r"\|") for cell in row) for row in (table.header, *table.rows)
    )
    return [f"| {head} |", f"|{'|'.join(sides)}|", *(f"| {row} |" for row in rows)]


def to_csv(table: Table) -> str:
    """Return one line for the heads and one for each row."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((table.header, *table.rows))
    return text.getvalue()
