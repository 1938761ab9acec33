"""One run from configuration to summary: preflight, back end, progress, and a clean end."""

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmaml.auditing import IN_A_RUN, KINDS, Audit, NotChecked, audit_data
from fedmaml.computing.references import evaluate_references
from fedmaml.config import RunConfig, allow_own_code, to_run_config
from fedmaml.core.errors import BackendError, DivergedError
from fedmaml.core.processes import refuse_while_importing_script
from fedmaml.preflight import preflight
from fedmaml.runs.directory import TOKEN, RunDirectory, new_directory
from fedmaml.runs.outcome import (
    diverged_from,
    rates_of_training,
    what_to_lower,
    what_went_wrong,
)
from fedmaml.runs.progress import RunProgress
from fedmaml.simulations.backends import module_of
from fedmaml.simulations.backends.apps import Apps
from fedmaml.simulations.scenario import SPLITS

logger = logging.getLogger("fedmaml")

APPS = Apps(server="fedmaml.server.app:app", client="fedmaml.client.app:app")


def execute(
    config: RunConfig, out: Path | None = None, *, force: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Run a configuration and return its summary.

    Args:
        config: What to run.
        out: Run directory; None: a new one below ``runs``.
        force: Overwrite the run that ``out`` holds.
        progress: Show a progress bar on standard error.

    Raises:
        FedmamlError: If strategy, scenario, data or back end do not work; the reason is in the
            run directory, too.
        KeyboardInterrupt: After Ctrl-C; names the folder of the finished rounds.
    """
    refuse_while_importing_script()
    if config.backend == "in-process":
        logging.getLogger("flwr").setLevel(logging.WARNING)  # not a line per round of robust rules
    if data := os.environ.get("FEDMAML_DATA"):  # nodes may start in another working directory
        os.environ["FEDMAML_DATA"] = str(Path(data).absolute())
    allow_own_code()  # this machine is its user's, and so are nodes that it starts
    preflight(config, _tell if progress else logger.debug)
    folder = out or new_directory(config)
    directory = RunDirectory(folder.absolute())
    with directory.entered() as token:
        directory.create(config, force)
        try:
            audit = audit_before(config)
            directory.save_audit(audit)
            directory.save_references(references_before(config))
            if progress:
                _tell(f"writing to {folder}")
                if line := audit.line():
                    _tell(f"{line}: fedmaml audit --config {folder / 'config.toml'}")
            return _run(config, directory, token, progress)
        except KeyboardInterrupt as error:
            done = len(directory.rounds())
            words = f"{done} of {config.rounds} rounds are finished and kept in {folder}"
            raise KeyboardInterrupt(words) from error


def _run(config: RunConfig, directory: RunDirectory, token: str, progress: bool) -> dict[str, Any]:
    """Run in a directory that was entered and created; return the summary."""
    backend = importlib.import_module(module_of(config.backend))
    run_config = to_run_config(config, directory.path) | {TOKEN: token}
    try:
        with RunProgress(directory, config, enabled=progress):
            socket = backend.run(APPS, run_config, config.nodes)
    except BackendError as error:
        if reason := directory.failure():  # the error of the ServerApp itself is the better message
            raise BackendError(f"the run failed: {reason}") from error
        raise
    summary = directory.summary()
    if summary is None:
        raise BackendError(
            f"back end {config.backend!r} ended without a summary in {directory.path}; "
            f"{len(directory.rounds())} rounds are finished"
        )
    _check_outcome(summary, directory)
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


def _check_outcome(summary: Mapping[str, Any], directory: RunDirectory) -> None:
    """Raise if nothing was learned or evaluated in a run."""
    what, start = what_went_wrong(summary), diverged_from(directory)
    if start > 1:
        what = f"from round {start} on not one client's update could be used"
    if not what:
        return
    left_out = [rejection for record in directory.rounds() for rejection in record["rejected"]]
    first = f"; the first reason: {left_out[0]['detail']}" if left_out else ""
    where = f"(all reasons: {directory.path}/rounds.jsonl)"
    if start:
        cure = what_to_lower(rates_of_training(directory.config_table(), start))
        raise DivergedError(f"training diverged: {what}{first}; {cure} {where}")
    raise BackendError(f"{what}{first} {where}")
