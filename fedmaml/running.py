"""One run from configuration to summary: preflight, back end, progress, and a clean end."""

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fedmaml.auditing import IN_A_RUN, KINDS, Audit, NotChecked, audit_data
from fedmaml.computing.references import evaluate_references
from fedmaml.config import RunConfig, allow_own_code, to_run_config
from fedmaml.core.errors import (
    BackendError,
    ConfigurationError,
    DivergedError,
    RunDirectoryError,
)
from fedmaml.core.patience import told_if_slow
from fedmaml.core.processes import refuse_while_importing_script
from fedmaml.preflight import preflight
from fedmaml.runs.directory import TOKEN, RunDirectory, new_directory
from fedmaml.runs.left_out import counted, in_words
from fedmaml.runs.outcome import (
    diverged_from,
    rates_of_training,
    what_to_lower,
    what_went_wrong,
)
from fedmaml.runs.progress import RunProgress
from fedmaml.simulations.backends import module_of, refuse_without_package
from fedmaml.simulations.backends.apps import Apps
from fedmaml.simulations.returned import left_out_of
from fedmaml.simulations.scenario import SPLITS

logger = logging.getLogger("fedmaml")

APPS = Apps(server="fedmaml.server.app:app", client="fedmaml.client.app:app")


def execute(
    config: RunConfig,
    out: Path | None = None,
    *,
    force: bool = False,
    resume: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Run a configuration and return its summary; as `executed`."""
    return executed(config, out, force=force, resume=resume, progress=progress)[1]


def executed(
    config: RunConfig,
    out: Path | None = None,
    *,
    force: bool = False,
    resume: bool = False,
    progress: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Run a configuration and return its folder and its summary.

    Args:
        config: What to run.
        out: Run directory; None: a new one below ``runs``.
        force: Overwrite the run that ``out`` holds.
        resume: Go on with the run that ``out`` holds, and that was cut short; the configuration
            must be its own (`RunDirectory.config`).
        progress: Show a progress bar on standard error.

    Raises:
        FedmamlError: If strategy, scenario, data or back end do not work; the reason is in the
            run directory, too.
        KeyboardInterrupt: After Ctrl-C; says what is kept and how to go on.
    """
    refuse_while_importing_script()
    refuse_without_package(config.backend)
    if config.backend == "in-process":
        logging.getLogger("flwr").setLevel(logging.WARNING)  # not a line per round of robust rules
    if data := os.environ.get("FEDMAML_DATA"):  # nodes may start in another working directory
        os.environ["FEDMAML_DATA"] = str(Path(data).absolute())
    allow_own_code()  # this machine is its user's, and so are nodes that it starts
    folder = _folder_to_resume(config, out) if resume else out
    with told_if_slow("reading the data and trying one client", progress):
        preflight(config, _tell if progress else logger.debug)
    folder = folder or new_directory(config)
    directory = RunDirectory(folder.absolute())
    with directory.entered() as token:
        if resume:
            _reopen(directory, folder, config)
        else:
            directory.create(config, force)
        try:
            audit = directory.audit() or _look_at_data(config, directory, progress)
            if progress:
                _tell(f"writing to {folder}")
                if line := audit.line():
                    _tell(f"{line}: fedmaml audit --config {folder / 'config.toml'}")
            return directory.path, _run(config, directory, token, progress)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_how_to_go_on(config, directory, folder)) from error


def _folder_to_resume(config: RunConfig, out: Path | None) -> Path:
    """Return the folder of a run that is to be resumed.

    Raises:
        ConfigurationError: If no folder is named, or its run has another configuration.
        RunDirectoryError: If it holds no run, or a complete one.
    """
    if out is None:
        raise ConfigurationError("resume which run? name its folder")
    directory = RunDirectory(out)
    if directory.summary() is not None:
        raise RunDirectoryError(f"the run in {out} is complete: fedmaml show {out} shows it")
    if directory.config() != config:
        raise ConfigurationError(
            f"the run in {out} has another configuration: resume it with its own, or begin "
            "another run in another folder"
        )
    return out


def _reopen(directory: RunDirectory, folder: Path, config: RunConfig) -> None:
    """Prepare a folder to go on, and report from where."""
    found = directory.reopen()
    for name, why in found.damaged.items():
        logger.warning("%s is damaged and was removed: %s", folder / name, why)
    if found.state is None:
        logger.warning("%s holds no state yet: the run begins anew", folder)
    else:
        _tell(f"{folder}: going on after round {found.state.round} of {config.rounds}")


def _look_at_data(config: RunConfig, directory: RunDirectory, progress: bool) -> Audit:
    """Count who is left out, evaluate references and audit for leakage.

    The audit is written last, so it tells that all of this is done.
    """
    scenario = config.make_scenario()
    if left_out := counted(left_out_of(scenario)):
        clients = sum(map(len, scenario.clients().values()))
        _say_once(f"left out {in_words(left_out)} ({clients} take part)")
    directory.save_left_out(left_out)
    directory.save_rows(scenario.rows())
    with told_if_slow("evaluating references", progress):
        directory.save_references(references_before(config))
    with told_if_slow("searching for leakage", progress):
        audit = audit_before(config)
    directory.save_audit(audit)
    return audit


@cache
def _say_once(message: str) -> None:
    """Log a warning that would be the same in every run of a comparison."""
    logger.warning(message)


def _how_to_go_on(config: RunConfig, directory: RunDirectory, folder: Path) -> str:
    if directory.summary() is not None:
        return f"the run in {folder} is complete"
    state = directory.newest_state().state
    done = 0 if state is None else state.round
    return (
        f"{done} of {config.rounds} rounds are kept in {folder}; go on with: "
        f"fedmaml run --resume {folder}"
    )


def _run(config: RunConfig, directory: RunDirectory, token: str, progress: bool) -> dict[str, Any]:
    """Run in a directory that was entered and created; return the summary."""
    backend = importlib.import_module(module_of(config.backend))
    run_config = to_run_config(config, directory.path) | {TOKEN: token}
    try:
        with RunProgress(directory, config, enabled=progress):
            socket = backend.run(APPS, run_config, config.nodes)
    except BackendError as error:
        if known := directory.error():  # the error of the ServerApp itself is the better message
            raise known from error
        if reason := directory.failure():
            raise BackendError(f"the run failed: {reason}") from error
        raise
    summary = directory.summary()
    if summary is None:
        raise BackendError(
            f"back end {config.backend!r} ended without a summary in {directory.path}; "
            f"{len(directory.rounds())} rounds are finished"
        )
    check_outcome(summary, directory)
    if socket is not None:  # only who lies between the nodes and their server can count it
        summary["cost"]["socket"] = socket
        directory.finish(summary)
    return summary


def audit_before(config: RunConfig) -> Audit:
    """Audit for leakage; the run goes on whatever the audit finds, and even if the audit fails."""
    parts = config.make_scenario(), config.make_strategy(), config.make_problem()
    unseen = "test" if config.evaluation.split == "validation" else ""
    splits = [split for split in SPLITS if split != unseen]
    try:
        return audit_data(*parts, config.seed, IN_A_RUN, splits)
    except Exception as error:  # whatever data and models of others may raise
        logger.warning("the leakage audit failed", exc_info=error)
        why = f"the audit raised {type(error).__name__}"
        return Audit((), (), tuple(NotChecked(kind, why) for kind in KINDS))


def references_before(config: RunConfig) -> list[dict[str, Any]]:
    """Evaluate the scenario's references on the test clients, whose data are on this machine.

    Not while settings are tuned: then test clients stay unseen.

    Raises:
        ConfigurationError: If one of them raises.
    """
    if config.evaluation.split != "test":
        return []
    dtype = config.make_problem().dtype
    return [one.to_json() for one in evaluate_references(config.make_scenario(), dtype)]


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def check_outcome(summary: Mapping[str, Any], directory: RunDirectory) -> None:
    """Raise if nothing was learned or evaluated in a run."""
    what, start = what_went_wrong(summary), diverged_from(directory)
    if start > 1:
        what = f"from round {start} on not one client's update could be used"
    if not what:
        return
    left_out = [rejection for record in directory.rounds() for rejection in record["rejected"]]
    reason = left_out[0]["detail"] if left_out else ""
    if start:  # its cure is among those below
        reason = reason.partition(":")[0]
    first = f"; the first reason: {reason}" if reason else ""
    where = "(the warnings above name clients and reasons)"
    if left_out:
        where = f"(all reasons: {directory.path}/rounds.jsonl)"
    if start:
        cure = what_to_lower(rates_of_training(directory.config_table(), start))
        raise DivergedError(f"training diverged: {what}{first}; {cure} {where}")
    raise BackendError(f"{what}{first} {where}")
