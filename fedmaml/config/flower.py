"""A configuration as a Flower run config, which allows only declared keys with scalar values."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedmaml.config.resolving import resolve
from fedmaml.config.settings import RunConfig
from fedmaml.core.errors import ConfigurationError

_MAIN_KEYS = ("scenario", "strategy", "rounds", "seed")
_MAY_BE_EMPTY = ("backend", "clients", "inner.lr", "inner.steps", "outer.lr")
FLOWER_KEYS = (*_MAIN_KEYS, *_MAY_BE_EMPTY, "settings", "out")
"""Keys of ``[tool.flwr.app.config]``: Flower allows only declared keys with scalar values."""


def to_run_config(config: RunConfig, out: Path) -> dict[str, str | int | float | bool]:
    """Return a Flower run config that holds a configuration and its run directory."""
    table = config.to_table()
    main = {key: table.pop(key) for key in _MAIN_KEYS}
    return {**main, "settings": tomli_w.dumps(table), "out": str(out)}


def from_run_config(run_config: Mapping[str, Any]) -> RunConfig:
    """Undo `to_run_config`; a key that is declared and left empty ("") is not set.

    Raises:
        ConfigurationError: If a setting is wrong.
    """
    text = str(run_config.get("settings", ""))
    try:
        more = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"settings = {text!r} is not valid TOML: {error}") from error
    own = {key: run_config.get(key, "") for key in (*_MAIN_KEYS, *_MAY_BE_EMPTY)}
    return resolve(more, {key: value for key, value in own.items() if value != ""})
