"""Lists of the catalogues."""

from collections.abc import Mapping

from fedmaml.tables.console import console
from fedmaml.tables.table import Table, on_terminal


def list_table(
    chosen: Mapping[str, Mapping[str, str]], families: Mapping[str, Mapping[str, str]]
) -> None:
    """Print the entries of catalogues.

    Args:
        chosen: Kind -> name of each entry -> a line about it.
        families: Kind -> name of each entry -> its family; entries of a family stand together.
    """
    for kind, entries in chosen.items():
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, about in entries.items():
            groups.setdefault(families.get(kind, {}).get(name, ""), []).append((name, about))
        for family, rows in groups.items():
            title = f"{kind}: {family}" if family else kind
            table = Table(title, ("", ""), tuple(rows), (0, 1))
            drawn = on_terminal(table, wrap=(1,), show_header=False, box=None, padding=(0, 2))
            drawn.columns[0].style = "bold"
            console.print(drawn)
        console.print()
