"""Lists of the catalogues."""

from collections.abc import Mapping

from fedmaml.tables.console import console
from fedmaml.tables.table import Table, on_terminal


def list_table(chosen: Mapping[str, Mapping[str, str]]) -> None:
    """Print the entries of catalogues."""
    for kind, entries in chosen.items():
        table = Table(kind, ("", ""), tuple(entries.items()), (0, 1))
        drawn = on_terminal(table, wrap=(1,), show_header=False, box=None, padding=(0, 2))
        drawn.columns[0].style = "bold"
        console.print(drawn)
        console.print()
