"""Writes ``index.json``, see `declared`: ``python -m fedmaml.config.write_index``."""

import json
from typing import Any

from pydantic import TypeAdapter

from fedmaml.config.declared import INDEX, facts_of
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES


def index_of_classes() -> dict[str, Any]:
    """Return the index: place of a class of this package -> what it declares, as plain values."""
    entries = {}
    for catalogue in (SCENARIOS, STRATEGIES):
        for name in catalogue:
            place = catalogue.place(name)
            if place.startswith("fedmaml."):
                cls = catalogue[name]
                schema = _without_words(TypeAdapter(cls).json_schema())
                entries[place] = facts_of(cls) | {"settings": schema}
    plain: dict[str, Any] = json.loads(json.dumps(entries))
    return plain


def _without_words(schema: Any) -> Any:
    """Leave out titles and descriptions, which are names and docstrings of the classes."""
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_words(value)
        for key, value in schema.items()
        if key not in ("title", "description") or not isinstance(value, str)
    }


if __name__ == "__main__":
    text = json.dumps(index_of_classes(), indent=1, ensure_ascii=False)
    INDEX.write_text(text + "\n", encoding="utf-8")
