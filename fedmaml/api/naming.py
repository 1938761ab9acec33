"""Scenarios and strategies as people name them, and settings as Python takes them.

"digits"                    a name of the catalogue
"wards.py:Wards"            a file of one's own
fm.Digits                   a class: the scenario's recipe says what it leaves open
fm.MAML(inner=...)          a value: exactly its settings, defaults included
"""

import dataclasses
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedmaml.config import Flat, RunConfig, flatten_table, known_keys
from fedmaml.config.keys import GIVEN_TO_SCENARIO
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.plugins import Catalogue, absolute, is_own, own_name
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES

_HELD_BY = "in-process"
"""The back end on which code and data of this process alone can run."""


@dataclass(frozen=True)
class Named:
    """A scenario or a strategy by name.

    Attributes:
        name: In the catalogue, where it is by now.
        place: Of a class of one's own, see `core.plugins.own_class`; "": it needs none.
        settings: Those of a value, by dotted key.
        held: Why it exists in this process alone; "": any process can import it.
    """

    name: str
    place: str = ""
    settings: Flat = field(default_factory=dict)
    held: str = ""


def scenario_named(given: Any) -> Named:
    """Return the name of a scenario: name, place, class or value.

    Raises:
        ConfigurationError: If it is none of these, or cannot be imported.
    """
    found = _named(given, SCENARIOS, "scenario", "fm.Scenario")
    own = {
        key if key in GIVEN_TO_SCENARIO else f"task.{key}": value
        for key, value in found.settings.items()
        if key != "data_dir" or value
    }
    held = found.held or getattr(given, "held", "")
    return dataclasses.replace(found, settings=own, held=held)


def strategy_named(given: Any) -> Named:
    """Return the name of a strategy; as `scenario_named`."""
    return _named(given, STRATEGIES, "strategy", "fm.MetaStrategy")


def places(scenario: Named, strategies: Sequence[Named]) -> Flat:
    """Return a comparison's settings: where own classes come from, and what values hold.

    Without a seed, since a comparison has several.
    """
    found: Flat = {key: value for key, value in scenario.settings.items() if key != "seed"}
    if scenario.place:
        found["scenario_from"] = scenario.place
    for one in strategies:
        found |= {f"{one.name}:{key}": value for key, value in one.settings.items()}
        if one.place:
            found[f"{one.name}:strategy_from"] = one.place
    return found


def settings_of(given: Mapping[str, Any], scenario: str, strategies: Sequence[str]) -> Flat:
    """Return keyword arguments by dotted key: ``inner_steps`` is inner.steps, ``cross`` task.cross.

    An argument that is no setting of the scenario and the strategies keeps its name, and is refused
    where settings are resolved, as on the command line.
    """
    known = [
        key
        for strategy in strategies
        if scenario in SCENARIOS and strategy in STRATEGIES
        for key in known_keys(scenario, strategy)
    ]
    keys = {key.replace(".", "_"): key for key in reversed(known)}
    of_the_task = {key.removeprefix("task."): key for key in known if key.startswith("task.")}
    found: Flat = {}
    for name, value in given.items():
        key = name if name in known else keys.get(name, of_the_task.get(name, name))
        if key in found:
            raise ConfigurationError(f"{key} is given twice, as {name} and otherwise; give it once")
        found[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return found


def refuse_elsewhere(named: Sequence[Named], config: RunConfig) -> None:
    """Refuse to run in other processes what exists in this one alone.

    Raises:
        ConfigurationError: Names it, and what to do instead.
    """
    for one in named:
        if one.held and (config.backend != _HELD_BY or config.workers > 1):
            where = (
                f"backend = {config.backend!r}" if config.backend != _HELD_BY
                else f"workers = {config.workers}"
            )  # fmt: skip
            raise ConfigurationError(
                f"{where}: {one.name!r} {one.held}; or run it with backend={_HELD_BY!r} and "
                "workers=1"
            )


def _named(given: Any, catalogue: Catalogue[Any], kind: str, base: str) -> Named:
    if isinstance(given, str | os.PathLike):
        text = os.fspath(given)
        if not is_own(text):
            return Named(text)
        place, name = absolute(text), own_name(text)
        catalogue.add(name, place)
        return Named(name, place)
    cls = given if inspect.isclass(given) else type(given)
    if not issubclass(cls, catalogue.base()):
        raise ConfigurationError(
            f"{kind} = {given!r}: give a name (fedmaml list), the path of a Python file, or a "
            f"class or value that derives from {base}"
        )
    found = _registered(cls, catalogue)
    if cls is given:
        return found
    return dataclasses.replace(found, settings=flatten_table(dataclasses.asdict(given)))


def _registered(cls: type, catalogue: Catalogue[Any]) -> Named:
    """Return the name of a class, put into the catalogue if it was not there."""
    place = f"{cls.__module__}:{cls.__qualname__}"
    for name in catalogue:
        if catalogue.place(name) == place or catalogue.loaded(name) is cls:
            own = catalogue.own_place(name)
            return Named(name, own, held="" if own or catalogue.place(name) else _in_memory(cls))
    name, own = cls.__name__.lower(), _place_of(cls)
    if name in catalogue and (catalogue.place(name) or catalogue.own_place(name)):
        raise ConfigurationError(
            f"{cls.__name__} would be called {name!r}, and there is one of this name (fedmaml "
            "list): rename the class"
        )
    if own:
        catalogue.add(name, own)
        return Named(name, own)
    catalogue[name] = cls
    return Named(name, held=_in_memory(cls))


def _place_of(cls: type) -> str:
    """Return where other processes find a class; "" if it was made in this one (a notebook)."""
    module = sys.modules.get(cls.__module__)
    if cls.__module__ == "__main__" or getattr(module, cls.__name__, None) is not cls:
        return ""
    file = getattr(module, "__file__", None)
    if "." in cls.__module__:
        return f"{cls.__module__}:{cls.__name__}"
    return f"{file}:{cls.__name__}" if str(file).endswith(".py") else ""


def _in_memory(cls: type) -> str:
    return (
        f"is the class {cls.__name__} of this process, which others cannot import: put it into a "
        "file of its own and import it"
    )
