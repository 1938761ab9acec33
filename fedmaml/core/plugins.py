"""Catalogues: classes by name, of this package and of installed ones; imported when asked for.

[project.entry-points."fedmaml.scenarios"]      in the pyproject.toml of the other package
wards = "my_package.wards:Wards"
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from fedmaml.core.errors import ConfigurationError

T = TypeVar("T")


class Catalogue(MutableMapping[str, T]):
    """A mapping from names to classes that imports a class when it is looked up.

    Names, their order and their number import nothing.

    Args:
        group: Of entry points, e.g. "fedmaml.scenarios".
        known: Name -> "module:class", of this package.

    Raises:
        ConfigurationError: If an entry point takes a name of this package, or one that another
            entry point has.
    """

    def __init__(self, group: str, known: Mapping[str, str]) -> None:
        self.group = group
        self._entries: dict[str, EntryPoint | None] = {
            name: EntryPoint(name, place, group) for name, place in known.items()
        }
        self._classes: dict[str, T] = {}
        for entry in entry_points(group=group):
            if entry.name in self._entries:
                raise ConfigurationError(
                    f"entry point {entry.name!r} of group {group!r} ({entry.value}) takes a name "
                    "that is taken; rename it, or uninstall the package that declares it"
                )
            self._entries[entry.name] = entry

    def place(self, name: str) -> str:
        """Return "module:class" of an entry; "" if the class was put in by hand."""
        entry = self._entries[name]
        return entry.value if entry else ""

    def __getitem__(self, name: str) -> T:
        """Return a class, imported if it was not before.

        Raises:
            KeyError: If there is no such name.
            ConfigurationError: If it cannot be imported.
        """
        entry = self._entries[name]
        if entry is not None and name not in self._classes:
            self._classes[name] = _loaded(entry)
        return self._classes[name]

    def __setitem__(self, name: str, cls: T) -> None:
        """Put in a class by hand, e.g. from a notebook; it replaces what had the name."""
        self._entries[name] = None
        self._classes[name] = cls

    def __delitem__(self, name: str) -> None:
        """Take out a name."""
        del self._entries[name]
        self._classes.pop(name, None)

    def __contains__(self, name: object) -> bool:
        """Return whether there is such a name."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._entries)


def imported(package: str, name: str, places: Iterable[str]) -> Any:
    """Return what a package exports under a name, imported now; for its ``__getattr__``.

    Args:
        package: Name of the package.
        name: What is looked up in it.
        places: "module:name" of everything that it exports so.

    Raises:
        AttributeError: If it exports nothing of this name.
    """
    for place in places:
        if place.rpartition(":")[2] == name:
            return EntryPoint(name, place, package).load()
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def _loaded(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # whatever the other package's code raises
        raise ConfigurationError(
            f"entry point {entry.name!r} of group {entry.group!r} ({entry.value}) cannot be loaded "
            f"({type(error).__name__}: {error}); mend or uninstall the package that declares it"
        ) from error
