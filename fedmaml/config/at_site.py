"""A run configuration at a real site: what it may not say, and what the site's own file adds.

The coordinator says which scenario, strategy and settings. Which data and folders a site uses, and
how many processes, its own file says. So a run configuration that names a path, a module or a
folder is refused there, whatever it names; and what the site adds is no part of what coordinator
and site compare.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmaml import __version__
from fedmaml.config.declared import declared_by_scenario, field_types
from fedmaml.config.flat import Flat, flatten_table
from fedmaml.config.flower import settings_in, with_settings
from fedmaml.config.settings import RunConfig
from fedmaml.core.errors import ConfigurationError, RefusedError
from fedmaml.core.identity import Identity, identity
from fedmaml.core.settings import Files, OfSite
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES

_OF_SITE = ("data_dir", "scenario_from", "strategy_from")
_MAY_DIFFER = ("backend", "nodes", "workers", "quorum", "quorum_timeout", "timeout", *_OF_SITE)
"""Settings that change no update, or that a site says itself."""

_PATHS = ("/", "~", "./", "../", "\\")


def refuse_what_a_site_says(run_config: Mapping[str, Any]) -> None:
    """Refuse a run configuration that names a path, a module or a folder of a site.

    Args:
        run_config: As it came from the coordinator.

    Raises:
        RefusedError: Names the keys and what to do.
        ConfigurationError: If the settings cannot be read.
    """
    if named := dict.fromkeys(_named(run_config)):
        raise RefusedError(
            f"the run configuration names {', '.join(named)}: which data, folders and code a site "
            "uses is said by its own file and never by the coordinator; leave them out (out may be "
            "a plain name, a folder below FEDMAML_RUNS of the coordinator)"
        )


def _named(run_config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys that name a path, a module or a folder."""
    out = str(run_config.get("out", ""))
    if out and (Path(out).name != out or "\\" in out):
        yield "out"
    settings = settings_in(run_config)
    scenario = str(settings.get("scenario", ""))
    of_site: tuple[str, ...] = _OF_SITE
    if scenario in SCENARIOS:
        of_site += tuple(f"task.{name}" for name in _fields_of_site(scenario))
    yield from (key for key in of_site if settings.get(key))
    for key, value in settings.items():
        if isinstance(value, str) and value.startswith(_PATHS):
            yield key


def with_data_of_site(
    run_config: Mapping[str, Any],
    *,
    folder: Path | None = None,
    table: Path | None = None,
    target: str = "",
    module: str = "",
    processes: int = 1,
) -> dict[str, Any]:
    """Return a run configuration with what a site's own file says.

    Args:
        run_config: From the coordinator, see `refuse_what_a_site_says`.
        folder: With one folder per data set.
        table: File of examples.
        target: Its column to predict.
        module: Function that returns examples.
        processes: Most that compute.

    Raises:
        RefusedError: If the scenario reads no such data.
    """
    settings = settings_in(run_config)
    scenario = str(settings.get("scenario", ""))
    if scenario not in SCENARIOS:
        raise RefusedError(
            f"the run configuration names the scenario {scenario[:40]!r}, which is not installed "
            "at this site: install the package that has it at every site"
        )
    own = {"data_dir": folder, "table": table, "column": target, "module": module}
    given = {key: str(value) for key, value in own.items() if value}
    known = field_types(declared_by_scenario(scenario).settings)
    if unread := [key for key in given if key not in known]:
        takes = [key for key in own if key in known]
        raise RefusedError(
            f"scenario {scenario!r} reads no {unread[0]} and the file of this site names one: it "
            f"takes {' or '.join(takes) or 'no data of a site'}; change the scenario, or [data] in "
            "the file of the site"
        )
    changes: Flat = {
        key if key == "data_dir" else f"task.{key}": value for key, value in given.items()
    }
    workers = settings.get("workers", 1)
    if isinstance(workers, int) and workers > processes:
        changes["workers"] = processes
    return with_settings(run_config, changes)


def identity_of(config: RunConfig) -> Identity:
    """Return what this process computes a run with: version, code and settings."""
    classes = SCENARIOS[config.scenario], STRATEGIES[config.strategy]
    return identity(__version__, _compared(config), *classes)


def _compared(config: RunConfig) -> Flat:
    """Return the settings that must be the same at coordinator and sites, by dotted key."""
    own = _MAY_DIFFER + tuple(f"task.{name}" for name in _fields_of_site(config.scenario))
    return {key: value for key, value in flatten_table(config.to_table()).items() if key not in own}


def _fields_of_site(scenario: str) -> list[str]:
    """Return the scenario's settings that name files, folders or code."""
    try:
        fields: Mapping[str, Any] = field_types(declared_by_scenario(scenario).settings)
    except ConfigurationError:
        return []
    return [name for name, kind in fields.items() if kind in (Files, OfSite) or name == "data_dir"]
