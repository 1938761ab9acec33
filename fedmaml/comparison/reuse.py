"""Many runs in one folder: complete ones are reused, interrupted ones go on, others are kept."""

import logging
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedmaml.config import RunConfig, flatten_table
from fedmaml.core.errors import FedmamlError, OtherFormatError, RunDirectoryError
from fedmaml.running import execute
from fedmaml.runs.completeness import what_is_missing
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.showing import console_of_progress, in_notebook, shown
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES

logger = logging.getLogger("fedmaml")


def is_complete(config: RunConfig, path: Path, force: bool) -> bool:
    """Return whether this run is there already, complete and with the same settings.

    Args:
        config: The run.
        path: Its run directory.
        force: Call a run with other settings incomplete, so that it is overwritten.

    Raises:
        RunDirectoryError: If a run with other settings, or one that another version of fedmaml
            wrote, is there (and not ``force``).
    """
    directory = RunDirectory(path)
    if not (path / "config.toml").exists():
        return False
    wanted = _written(config)
    try:
        there = _new_by_default(config) | flatten_table(directory.config_table())
    except RunDirectoryError:
        if force:
            return False
        raise
    if there == wanted:
        return _finished(directory, force)
    if force:
        return False
    key = next(key for key in (*wanted, *there) if there.get(key) != wanted.get(key))
    raise RunDirectoryError(
        f"{path} holds a run with other settings ({key} = {there.get(key)!r}, now "
        f"{wanted.get(key)!r}): choose another folder with --out, or run it again with --force"
    )


def _written(config: RunConfig) -> dict[str, Any]:
    """Return the settings of a run as its config.toml holds them, by dotted key."""
    return flatten_table(tomllib.loads(tomli_w.dumps(config.to_table())))


def _new_by_default(config: RunConfig) -> dict[str, Any]:
    """Return the defaults of settings, which a run had that is older than a setting."""
    usual = RunConfig(
        config.scenario,
        config.strategy,
        task=asdict(SCENARIOS[config.scenario]()),  # type: ignore[call-overload]
        options=asdict(STRATEGIES[config.strategy]()),  # type: ignore[call-overload]
    )
    settings = _written(config)
    return {key: value for key, value in _written(usual).items() if key in settings}


def make_complete(config: RunConfig, path: Path) -> None:
    """Make a run that `is_complete` found incomplete: go on with it, or begin it anew.

    Raises:
        FedmamlError: If the run fails.
    """
    goes_on = _can_go_on(config, RunDirectory(path))
    execute(config, path, force=not goes_on, resume=goes_on)


def _can_go_on(config: RunConfig, directory: RunDirectory) -> bool:
    """Return whether a folder holds this run, cut short after a state that can be used."""
    try:
        same = directory.config() == config and directory.summary() is None
        return same and directory.newest_state().state is not None
    except FedmamlError as error:
        if (directory.path / "config.toml").exists():
            logger.warning("%s cannot be continued, and begins anew: %s", directory.path, error)
        return False


def _finished(directory: RunDirectory, force: bool) -> bool:
    """Return whether a run is complete; one that was cut short goes on."""
    try:
        return not what_is_missing(directory)
    except OtherFormatError:  # complete for those who can read it
        if force:
            return False
        raise
    except RunDirectoryError:
        return False


@contextmanager
def progress_bar(unit: str, enabled: bool) -> Iterator[Progress]:
    """Show a progress bar that counts in a unit, e.g. runs."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        console=console_of_progress(),
        disable=in_notebook() or not enabled,
    )
    with shown(bar, enabled=enabled):
        yield bar
