"""Strategies next to each other: the same clients, the same seeds, and what may be concluded.

plan       settings -> one configuration per strategy and seed      checked before anything runs
run_all    configurations -> run directories DIR/<strategy>/seed<k>  complete ones are reused
compare    run directories -> what may be concluded from them, see `conclusions`
"""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path

import tomli_w
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedmaml.conclusions import ALWAYS, Comparison, conclude, what_is_missing
from fedmaml.config import Flat, RunConfig, flatten_table, known_keys, nearest, resolve
from fedmaml.core.errors import BackendError, ConfigurationError, FedmamlError, RunDirectoryError
from fedmaml.preflight import preflight
from fedmaml.running import execute
from fedmaml.server.run_directory import RunDirectory
from fedmaml.verdicts import REFERENCE

_OWN_KEYS = {"scenario": "as the argument", "strategy": "with --strategies", "seed": "with --seeds"}

Plan = dict[str, list[RunConfig]]
"""Strategy -> its configuration for every seed."""


# --- plan -------------------------------------------------------------------------------------


def plan(
    scenario: str, strategies: Sequence[str], seeds: int, layers: Sequence[Flat], rounds: int | None
) -> Plan:
    """Return what to run: every strategy with its recipe and the common settings that it knows.

    Args:
        scenario: Name in the catalogue.
        strategies: Names in the catalogue; `ALWAYS` are added.
        seeds: How many; they are 0, 1, ...
        layers: Common settings, later ones winning.
        rounds: Rounds of training for all but "local", which has none; None: as in the recipes.

    Raises:
        ConfigurationError: Names what is wrong, what is allowed and the nearest right word.
    """
    if seeds < 1:
        raise ConfigurationError(
            f"seeds = {seeds}: allowed: 1 or more; 5 are enough for most scenarios"
        )
    names = list(dict.fromkeys([*ALWAYS, *strategies]))
    given: Flat = {key: value for layer in layers for key, value in layer.items()}
    for key, how in _OWN_KEYS.items():
        if key in given:
            raise ConfigurationError(
                f"{key} = {given[key]!r}: a comparison takes the {key} {how}; remove the setting"
            )
    for name in names:
        resolve({"scenario": scenario, "strategy": name})  # a wrong name is told as such
    known = {name: known_keys(scenario, name) for name in names}
    everything = list(dict.fromkeys(key for keys in known.values() for key in keys))
    for key in given:
        if key not in everything:
            raise ConfigurationError(
                f"unknown key {key!r}: neither scenario {scenario!r} nor any of "
                f"{', '.join(names)} has it{nearest(key, everything)}; "
                f"known: {', '.join(key for key in everything if key not in _OWN_KEYS)}"
            )
    planned: Plan = {}
    for name in names:
        own = {key: value for key, value in given.items() if key in known[name]}
        if name == "local":
            own["rounds"] = 0  # its rounds would change nothing
        elif rounds is not None:
            own["rounds"] = rounds
        main = {"scenario": scenario, "strategy": name}
        planned[name] = [resolve(own, main, {"seed": seed}) for seed in range(seeds)]
    for name in names:
        if planned[name][0].task != planned[REFERENCE][0].task:
            raise ConfigurationError(
                f"the recipes of {name!r} and {REFERENCE!r} on {scenario!r} set different tasks, "
                "so that they cannot be compared; set the task.* keys that differ with --set"
            )
    return planned


# --- run --------------------------------------------------------------------------------------


def run_all(planned: Plan, out: Path, *, force: bool = False, progress: bool = False) -> None:
    """Run what is not complete yet.

    Args:
        planned: What to run.
        out: Holds one run directory per strategy and seed.
        force: Run again what is there with other settings, instead of refusing.
        progress: Show a progress bar on standard error.

    Raises:
        RunDirectoryError: If ``out`` holds other runs (and not ``force``); nothing was changed.
        FedmamlError: If a run cannot be done.
        KeyboardInterrupt: After Ctrl-C; the same command goes on where it was interrupted.
    """
    if (out / "config.toml").exists():
        raise RunDirectoryError(
            f"{out} is the directory of a single run: choose another folder with --out"
        )
    everything = [config for configs in planned.values() for config in configs]
    missing = [config for config in everything if not _complete(config, out, force)]
    if folder := os.environ.get("FEDMAML_DATA"):
        os.environ["FEDMAML_DATA"] = str(Path(folder).absolute())
    for strategy in dict.fromkeys(config.strategy for config in missing):
        preflight(planned[strategy][0])
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not progress,
    )
    with bar:
        task = bar.add_task("", total=len(everything), completed=len(everything) - len(missing))
        for config in missing:
            label = f"{config.strategy}, seed {config.seed}"
            bar.update(task, description=label)
            try:
                execute(config, run_path(config, out), force=True)
            except FedmamlError as error:
                raise BackendError(f"{label}: {error}") from error
            bar.advance(task)
        bar.update(task, description="all runs complete")


def run_path(config: RunConfig, out: Path) -> Path:
    """Return the run directory of one run of a comparison."""
    return out / config.strategy / f"seed{config.seed}"


def _complete(config: RunConfig, out: Path, force: bool) -> bool:
    """Return whether this very run is there already, complete."""
    directory = RunDirectory(run_path(config, out))
    if not (directory.path / "config.toml").exists():
        return False
    wanted = flatten_table(tomllib.loads(tomli_w.dumps(config.to_table())))
    try:
        there = flatten_table(directory.config_table())
    except RunDirectoryError:
        if force:
            return False
        raise
    if there == wanted:
        return _finished(directory)
    if force:
        return False
    key = next(key for key in (*wanted, *there) if there.get(key) != wanted.get(key))
    raise RunDirectoryError(
        f"{directory.path} holds a run with other settings ({key} = {there.get(key)!r}, now "
        f"{wanted.get(key)!r}): choose another folder with --out, or run it again with --force"
    )


def _finished(directory: RunDirectory) -> bool:
    """Return whether nothing of a run's outcome is missing; what is cut short is run again."""
    try:
        return not what_is_missing(directory)
    except RunDirectoryError:
        return False


def directories(planned: Plan, out: Path) -> list[Path]:
    """Return the run directories of a comparison."""
    return [run_path(config, out) for configs in planned.values() for config in configs]


def compare(planned: Plan, out: Path) -> Comparison:
    """Read the complete runs of a comparison and judge them."""
    return conclude(
        {
            name: {config.seed: run_path(config, out) for config in configs}
            for name, configs in planned.items()
        }
    )
