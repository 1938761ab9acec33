"""Catalogues: classes by name, of this package and of others; imported when asked for.

[project.entry-points."fedmaml.scenarios"]      in the pyproject.toml of an installed package
wards = "my_package.wards:Wards"

fedmaml run path/to/wards.py                    a file of one's own; see `own_class`
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from fedmaml.core.errors import ConfigurationError, place_of

T = TypeVar("T")


class Catalogue(MutableMapping[str, T]):
    """A mapping from names to classes that imports a class when it is looked up.

    Names, their order and their number import nothing.

    Args:
        group: Of entry points, e.g. "fedmaml.scenarios".
        known: Name -> "module:class", of this package.
        base: "module:class" from which all of them derive.

    Raises:
        ConfigurationError: If an entry point takes a name of this package, or one that another
            entry point has.
    """

    def __init__(self, group: str, known: Mapping[str, str], base: str) -> None:
        self.group = group
        self._base = base
        self._own: dict[str, str] = {}
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

    def base(self) -> type:
        """Return the class from which all entries derive, imported now."""
        found: type = _loaded(EntryPoint("base", self._base, self.group))
        return found

    def own_place(self, name: str) -> str:
        """Return the place from which a class of one's own was added; "" if it was not."""
        return self._own.get(name, "")

    def loaded(self, name: str) -> T | None:
        """Return a class if it was imported or put in before; None: it was not."""
        return self._classes.get(name)

    def add(self, name: str, place: str) -> None:
        """Put in a class of one's own; it is imported at once.

        Args:
            name: Its name from now on; one that was added before is replaced.
            place: "path/to/file.py", "path/to/file.py:Class" or "module:Class".

        Raises:
            ConfigurationError: If the name is taken, or the class cannot be imported; names file
                and line.
        """
        if name in self._entries and name not in self._own:
            raise ConfigurationError(
                f"{place} would be called {name!r}, and there is one of this name (fedmaml list): "
                "rename the file"
            )
        if self._own.get(name) == place:
            return  # a file that changes meanwhile does not change this process
        self[name] = own_class(place, self.base())
        self._own[name] = place

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
        self._own.pop(name, None)

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


def is_own(name: str) -> bool:
    """Return whether a name is the place of a class of one's own, and none of a catalogue."""
    return name.endswith(".py") or ":" in name


def own_name(place: str) -> str:
    """Return the short name of a place: that of its file or module."""
    file, _, _ = place.partition(".py")
    return Path(file).name if ".py" in place else place.partition(":")[0].rpartition(".")[2]


def absolute(place: str) -> str:
    """Return a place with its file's absolute path, since nodes and workers start elsewhere.

    Raises:
        ConfigurationError: If there is no such file.
    """
    if ".py" not in place:
        return place
    file, _, cls = place.partition(".py")
    path = Path(f"{file}.py").absolute()
    if not path.is_file():
        raise ConfigurationError(
            f"no file {path}: give the path of a Python file, e.g. my_file.py, or "
            "my_file.py:MyClass"
        )
    return f"{path}{cls}"


def own_class(place: str, base: type) -> Any:
    """Import a class of one's own.

    Args:
        place: "path/to/file.py", if the file has one class that derives from ``base``;
            "path/to/file.py:Class"; or "module:Class", of an installed package.
        base: The class that it must derive from.

    Raises:
        ConfigurationError: If it cannot be imported, or is no such class; names file and line.
    """
    file, dot, rest = place.partition(".py")
    name = rest.removeprefix(":") if dot else place.partition(":")[2]
    module = _imported_file(f"{file}.py") if dot else _imported_module(place)
    found = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    }
    if name in found:
        return _finished(found[name], place)
    if not name and len(found) == 1:
        return _finished(next(iter(found.values())), place)
    what = f"class that derives from {base.__module__}.{base.__qualname__}"
    if name or not found:
        has = f"; it has {', '.join(found)}" if found else ""
        raise ConfigurationError(f"{place}: there is no {what}{has}")
    raise ConfigurationError(
        f"{place}: it has several classes, {', '.join(found)}; say which, e.g. "
        f"{place}:{next(iter(found))}"
    )


def _finished(cls: type, place: str) -> type:
    """Return a class of one's own; refuse one that lacks a method, or is not declared as settings.

    A class that derives from a finished one, and adds no fields, is declared as that is.
    """
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        raise ConfigurationError(f"{place}: class {cls.__name__} lacks {' and '.join(lacking)}()")
    own = "__dataclass_fields__" in vars(cls)
    if not own and (inspect.get_annotations(cls) or not dataclasses.is_dataclass(cls)):
        raise ConfigurationError(
            f"{place}: put @settings above class {cls.__name__} (from fedmaml.core.settings import "
            "settings): it makes fields into settings, and checks their values"
        )
    return cls


def _imported_file(path: str) -> ModuleType:
    """Import a file as a module that is named by its content: a changed file is another module."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}; put the file there, or name its new place in "
            "scenario_from or strategy_from of the configuration (config.toml of a run)"
        ) from error
    name = f"{Path(path).stem}_{hashlib.sha256(content).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(Path(path).parent)
    if folder not in sys.path:
        sys.path.append(folder)  # it may import its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever somebody's code raises
        del sys.modules[name]
        raise ConfigurationError(_why_not(path, error)) from error
    return module


def _imported_module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place.partition(":")[0])
    except Exception as error:
        raise ConfigurationError(_why_not(place, error)) from error


def _why_not(place: str, error: BaseException) -> str:
    # a syntax error names its own place, in its text
    where = "" if isinstance(error, SyntaxError) else place_of(error)
    where = f" ({where})" if where else ""
    return f"{place} cannot be imported: {type(error).__name__}: {error}{where}"
