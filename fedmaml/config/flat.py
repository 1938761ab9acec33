"""Settings by dotted key, and where people write them: TOML files, ``key=value``."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmaml.core.errors import ConfigurationError

Flat = dict[str, Any]
"""Dotted key -> scalar or list."""

_WITHOUT_ZERO = re.compile(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
"""Numbers that TOML does not take: .2 and 1."""


def flatten_table(table: Mapping[str, Any], prefix: str = "") -> Flat:
    """Return dotted keys of a nested table."""
    flat: Flat = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten_table(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def nest(flat: Flat) -> dict[str, Any]:
    """Undo `flatten_table`."""
    table: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        place = table
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return table


def load_toml(path: Path) -> Flat:
    """Read a configuration file.

    Raises:
        ConfigurationError: If it is missing or is not TOML.
    """
    try:
        return flatten_table(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigurationError(f"cannot read configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error


def parse_assignment(text: str) -> Flat:
    """Read ``key=value``; values are TOML, and words that are not TOML are strings.

    Raises:
        ConfigurationError: If there is no "=".
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(
            f"cannot read setting {text!r}: write key=value, e.g. --set inner.lr=0.01"
        )
    value = {"True": "true", "False": "false"}.get(value.strip(), value)
    try:
        return {key.strip(): tomllib.loads(f"value = {value.strip()}")["value"]}
    except tomllib.TOMLDecodeError:
        word = value.strip()
        return {key.strip(): float(word) if _WITHOUT_ZERO.fullmatch(word) else word}
