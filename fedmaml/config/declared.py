"""What strategies and scenarios declare: settings, recipes, a line about each, without PyTorch.

The file of a strategy or scenario imports PyTorch, which takes seconds. Wrong settings and lists
need none of that, so ``index.json`` beside this file keeps what the classes of this package
declare. ``python -m fedmaml.config.write_index`` writes it; a test compares it with the classes.
A class without an entry, e.g. of another package, is imported.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from fedmaml.core.plugins import Catalogue
from fedmaml.core.settings import Files, OfSite, settings
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES

INDEX = Path(__file__).with_name("index.json")
_TYPES = {"integer": int, "number": float, "boolean": bool, "string": str}
_FORMATS: Mapping[str, Any] = {"path": Files, "of-site": OfSite}
_BOUNDS: Mapping[str, Callable[[Any], Any]] = {
    "minimum": Ge, "exclusiveMinimum": Gt, "maximum": Le, "exclusiveMaximum": Lt,
}  # fmt: skip


@dataclass(frozen=True)
class Declared:
    """What a class of a catalogue declares.

    Attributes:
        about: One line.
        label: Name of a strategy as in papers; "" for a scenario.
        family: "family:<family>" of a strategy, as recipes name it; "" for a scenario.
        recipes: Of a scenario; {} for a strategy.
        only_with: Of a scenario; {} for a strategy.
        make_settings: Makes `settings`, which takes a moment that lists can do without.
    """

    about: str
    label: str
    family: str
    recipes: Mapping[str, Mapping[str, Any]]
    only_with: Mapping[str, tuple[str, tuple[Any, ...]]]
    make_settings: Callable[[], type]

    @cached_property
    def settings(self) -> type:
        """A dataclass with its settings.

        It validates as the class does, but for checks that the class makes in code.
        """
        return self.make_settings()


def declared_by_strategy(name: str) -> Declared:
    """Return what a strategy of the catalogue declares."""
    return _declared(STRATEGIES, name)


def declared_by_scenario(name: str) -> Declared:
    """Return what a scenario of the catalogue declares."""
    return _declared(SCENARIOS, name)


def field_types(cls: type) -> dict[str, Any]:
    """Return the fields of a dataclass by name."""
    return {item.name: item.type for item in dataclasses.fields(cls)}


def _declared(catalogue: Catalogue[Any], name: str) -> Declared:
    place = catalogue.place(name)
    if entry := _index().get(place):
        return _from_entry(place, entry["about"])
    cls = catalogue[name]
    return Declared(**(facts_of(cls) | {"make_settings": lambda: cls}))


@cache
def _index() -> dict[str, Any]:
    index: dict[str, Any] = json.loads(INDEX.read_text(encoding="utf-8"))
    return index


@cache
def _from_entry(place: str, about: str) -> Declared:
    entry = _index()[place]
    only_with = {key: (other, tuple(values)) for key, (other, values) in entry["only_with"].items()}
    schema = entry["settings"]
    make = partial(_settings, place.rpartition(":")[2], schema, schema.get("$defs"))
    return Declared(about, entry["label"], entry["family"], entry["recipes"], only_with, make)


def _settings(name: str, schema: Mapping[str, Any], parts: Mapping[str, Any] | None) -> type:
    """Return a dataclass of settings from the JSON schema that pydantic wrote of one."""
    made = []
    for key, value in schema["properties"].items():
        default = {"default": _frozen(value["default"])} if "default" in value else {}
        if reference := value.get("$ref"):
            part = reference.rpartition("/")[2]
            nested = _settings(part, (parts or {})[part], parts)
            made.append((key, nested, dataclasses.field(default_factory=nested)))
            continue
        if not default and key not in schema.get("required", ()):
            default = {"default": None}  # by a factory, which the class has
        made.append((key, _type(value), dataclasses.field(kw_only=True, **default)))
    return settings(dataclasses.make_dataclass(name, made, frozen=True))


def _frozen(default: Any) -> Any:
    return tuple(default) if isinstance(default, list) else default


def _type(schema: Mapping[str, Any]) -> Any:
    """Return the type of a setting; Any if the schema says more than is understood here."""
    if choices := schema.get("enum"):
        return Literal[tuple(choices)]
    if schema.get("type") == "array" and "items" in schema:
        return tuple[_type(schema["items"]), ...]  # type: ignore[misc]
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    if schema.get("type") not in _TYPES:
        return Any
    kind: Any = _TYPES[schema["type"]]
    for word, bound in _BOUNDS.items():
        if word in schema:
            kind = Annotated[kind, bound(schema[word])]
    return kind


def facts_of(cls: Any) -> dict[str, Any]:
    """Return what a class declares, settings apart."""
    lines = (sys.modules[cls.__module__].__doc__ or "").splitlines()
    facts = getattr(cls, "facts", None)
    return {
        "about": getattr(cls, "about", lines[0].rstrip(".") if lines else ""),
        "label": facts.label if facts else "",
        "family": f"family:{facts.family}" if facts else "",
        "recipes": getattr(cls, "recipes", {}),
        "only_with": getattr(cls, "only_with", {}),
    }
