"""Strategies side by side: the same clients, the same seeds, the same budget.

plan       settings -> one configuration per strategy and seed       (`planning`)
tuned      a plan, with the settings that `tuning` found on validation clients
run_all    configurations -> run directories DIR/<strategy>/seed<k>  complete ones are reused
compare    run directories -> conclusions, see `conclusions`
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fedmaml.comparison.conclusions import Comparison, conclude
from fedmaml.comparison.findings import Tuned
from fedmaml.comparison.notes import notes_on
from fedmaml.comparison.planning import Plan
from fedmaml.comparison.reuse import is_complete, make_complete, progress_bar
from fedmaml.config import RunConfig
from fedmaml.core.errors import BackendError, DivergedError, FedmamlError, RunDirectoryError
from fedmaml.preflight import preflight
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.outcome import has_diverged, what_went_wrong


def run_all(planned: Plan, out: Path, *, force: bool = False, progress: bool = False) -> None:
    """Make all runs that are not complete yet.

    Args:
        planned: The runs.
        out: Folder of one run directory per strategy and seed.
        force: Replace runs with other settings, instead of refusing.
        progress: Show a progress bar on standard error.

    Raises:
        RunDirectoryError: If ``out`` holds other runs (and not ``force``); nothing was changed.
        FedmamlError: If a run fails; divergence is a result of its strategy, and the other runs
            continue.
        KeyboardInterrupt: After Ctrl-C; the same command continues where it was interrupted.
    """
    refuse_single_run(out)
    everything = [config for configs in planned.runs.values() for config in configs]
    missing = [config for config in everything if not _is_done(config, out, force)]
    if folder := os.environ.get("FEDMAML_DATA"):
        os.environ["FEDMAML_DATA"] = str(Path(folder).absolute())
    for strategy in dict.fromkeys(config.strategy for config in missing):
        preflight(planned.runs[strategy][0])
    with progress_bar("runs", progress) as bar:
        task = bar.add_task("", total=len(everything), completed=len(everything) - len(missing))
        for config in missing:
            label = f"{config.strategy}, seed {config.seed}"
            bar.update(task, description=label)
            try:
                if not _is_done(config, out, force):  # another command may have made it meanwhile
                    make_complete(config, run_path(config, out))
            except DivergedError:
                pass  # the run directory records it, and `conclude` reports it
            except FedmamlError as error:
                raise BackendError(f"{label}: {error}") from error
            bar.advance(task)
        bar.update(task, description="all runs complete")


def _is_done(config: RunConfig, out: Path, force: bool) -> bool:
    """Return whether a run is complete and has a result; divergence is a result, too."""
    path = run_path(config, out)
    if not is_complete(config, path, force):
        return False
    directory = RunDirectory(path)
    summary = directory.summary()
    return summary is not None and (not what_went_wrong(summary) or has_diverged(directory))


def refuse_single_run(out: Path) -> None:
    """Refuse a folder that is itself a run directory.

    Raises:
        RunDirectoryError: If it is.
    """
    if (out / "config.toml").exists():
        raise RunDirectoryError(
            f"{out} is the directory of a single run: choose another folder with --out"
        )


def refuse_other_contents(out: Path, *, tuned: bool) -> None:
    """Refuse a folder whose other contents a comparison would overwrite.

    Raises:
        RunDirectoryError: If it is a run, holds a report of something else, or a comparison that
            was tuned where this one is not, or the reverse; raised before any trial runs.
    """
    refuse_single_run(out)
    cure = "choose another folder with --out, or overwrite it with --force"
    made = out / "comparison.json"
    if not made.is_file():
        if (out / "report.html").exists():
            raise RunDirectoryError(f"{out / 'report.html'} is not of a comparison: {cure}")
        return
    try:
        was_tuned = bool(json.loads(made.read_text(encoding="utf-8")).get("tuning"))
    except (OSError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"{made} cannot be read ({error}): {cure}") from error
    if was_tuned != tuned:
        holds, now = ("tuned", "not tuned") if was_tuned else ("not tuned", "tuned")
        raise RunDirectoryError(f"{out} holds a comparison that was {holds}, now {now}: {cure}")


def run_path(config: RunConfig, out: Path) -> Path:
    """Return the run directory of one run of a comparison."""
    return out / config.strategy / f"seed{config.seed}"


def directories(planned: Plan, out: Path) -> list[Path]:
    """Return the run directories of a comparison."""
    return [run_path(config, out) for configs in planned.runs.values() for config in configs]


def compare(planned: Plan, out: Path, found: Mapping[str, Tuned] | None = None) -> Comparison:
    """Read the complete runs of a comparison and evaluate them.

    Args:
        planned: The runs.
        out: Their folder.
        found: Results of tuning, if the settings were tuned.
    """
    runs = {
        name: {config.seed: run_path(config, out) for config in configs}
        for name, configs in planned.runs.items()
    }
    made = conclude(runs)
    notes = (*notes_on(planned, runs, found), *made.notes)
    return replace(made, notes=notes, equal=planned.budget.equal, tuning=dict(found or {}))
