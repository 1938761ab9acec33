"""Many runs in one folder: complete runs are reused, and none is overwritten."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomli_w
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedmaml.config import RunConfig, flatten_table
from fedmaml.core.errors import OtherFormatError, RunDirectoryError
from fedmaml.runs.completeness import what_is_missing
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.showing import console_of_progress, in_notebook, shown


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
    wanted = flatten_table(tomllib.loads(tomli_w.dumps(config.to_table())))
    try:
        there = flatten_table(directory.config_table())
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


def _finished(directory: RunDirectory, force: bool) -> bool:
    """Return whether a run is complete; one that was cut short is run again."""
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
