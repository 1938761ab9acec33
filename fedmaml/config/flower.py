"""A configuration as a Flower run config, which allows only declared keys with scalar values."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedmaml.config.flat import Flat, flatten_table, nest
from fedmaml.config.resolving import resolve
from fedmaml.config.settings import RunConfig
from fedmaml.core.errors import ConfigurationError

_MAIN_KEYS = ("scenario", "strategy", "rounds", "seed")
_MAY_BE_EMPTY = ("backend", "clients", "inner.lr", "inner.steps", "outer.lr")
OWN_CODE = "FEDMAML_OWN_CODE"
"""Environment variable: "1" lets a run configuration name code; a run sets it for its processes."""

FLOWER_KEYS = (*_MAIN_KEYS, *_MAY_BE_EMPTY, "settings", "out")
"""Keys of ``[tool.flwr.app.config]``: Flower allows only declared keys with scalar values."""


def to_run_config(config: RunConfig, out: Path) -> dict[str, str | int | float | bool]:
    """Return a Flower run config that holds a configuration and its run directory."""
    table = config.to_table()
    main = {key: table.pop(key) for key in _MAIN_KEYS}
    return {**main, "settings": tomli_w.dumps(table), "out": str(out)}


def allow_own_code() -> None:
    """Let this process, and those that it starts, run classes of one's own."""
    os.environ[OWN_CODE] = "1"


def from_run_config(run_config: Mapping[str, Any]) -> RunConfig:
    """Undo `to_run_config`; a key that is declared and left empty ("") is not set.

    Raises:
        ConfigurationError: If a setting is wrong, or names code that this machine does not allow.
    """
    given = settings_in(run_config)
    if os.environ.get(OWN_CODE) != "1" and (
        given.get("scenario_from") or given.get("strategy_from")
    ):
        raise ConfigurationError(
            "the run names a scenario or a strategy in a file of its own, and this machine runs "
            "only what is installed on it: install a package with the entry points "
            f"fedmaml.scenarios or fedmaml.strategies, or let its operator set {OWN_CODE}=1"
        )
    return resolve(given)


def settings_in(run_config: Mapping[str, Any]) -> Flat:
    """Return the settings that a run config gives, by dotted key, as they stand there.

    Raises:
        ConfigurationError: If its ``settings`` are not TOML.
    """
    text = str(run_config.get("settings", ""))
    try:
        more = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"settings = {text!r} is not valid TOML: {error}") from error
    own = {key: run_config.get(key, "") for key in (*_MAIN_KEYS, *_MAY_BE_EMPTY)}
    return flatten_table(more) | {key: value for key, value in own.items() if value != ""}


def with_settings(run_config: Mapping[str, Any], changes: Flat) -> dict[str, Any]:
    """Return a run config with other settings beside its main ones.

    Args:
        run_config: Where they are changed.
        changes: Dotted key -> value.
    """
    text = str(run_config.get("settings", ""))
    more = flatten_table(tomllib.loads(text)) | changes
    return {**run_config, "settings": tomli_w.dumps(nest(more))}
