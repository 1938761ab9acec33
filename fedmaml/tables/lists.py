"""Lists of the catalogues."""

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from fedmaml.tables.console import console


def list_table(chosen: Mapping[str, Mapping[str, str]]) -> None:
    """Print the entries of catalogues."""
    for kind, entries in chosen.items():
        table = Table(title=kind, title_justify="left", show_header=False, box=None, padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, about in entries.items():
            table.add_row(name, escape(about))
        console.print(table)
        console.print()
