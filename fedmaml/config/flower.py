"""A configuration as a Flower run config, which allows only declared keys with scalar values."""

import os
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
    text = str(run_config.get("settings", ""))
    try:
        more = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"settings = {text!r} is not valid TOML: {error}") from error
    if os.environ.get(OWN_CODE) != "1" and (more.get("scenario_from") or more.get("strategy_from")):
        raise ConfigurationError(
            "the run names a scenario or a strategy in a file of its own, and this machine runs "
            "only what is installed on it: install a package with the entry points "
            f"fedmaml.scenarios or fedmaml.strategies, or let its operator set {OWN_CODE}=1"
        )
    own = {key: run_config.get(key, "") for key in (*_MAIN_KEYS, *_MAY_BE_EMPTY)}
    return resolve(more, {key: value for key, value in own.items() if value != ""})
