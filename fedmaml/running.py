"""One run from configuration to summary: preflight, back end, progress, and a clean end."""

import importlib
import os
from pathlib import Path
from typing import Any

from fedmaml.config import RunConfig, to_run_config
from fedmaml.core import seeding
from fedmaml.core.errors import BackendError
from fedmaml.progress import RunProgress
from fedmaml.server.run_directory import RunDirectory
from fedmaml.simulations.backends.apps import Apps

APPS = Apps(server="fedmaml.server.app:app", client="fedmaml.client.app:app")
_MODULES = {
    "in-process": "fedmaml.simulations.backends.in_process",
    "flower-simulation": "fedmaml.simulations.backends.flower_simulation",
    "flower-deployment": "fedmaml.simulations.backends.flower_deployment",
}


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
        KeyboardInterrupt: After Ctrl-C; the run directory holds what was finished.
    """
    if folder := os.environ.get("FEDMAML_DATA"):  # nodes may start in another working directory
        os.environ["FEDMAML_DATA"] = str(Path(folder).absolute())
    preflight(config)
    directory = RunDirectory((out or default_directory(config)).absolute())
    directory.create(config, force)
    backend = importlib.import_module(_MODULES[config.backend])
    run_config = to_run_config(config, directory.path)
    try:
        with RunProgress(directory, config, enabled=progress):
            backend.run(APPS, run_config, config.nodes)
    except BackendError as error:
        if reason := directory.failure():  # what the ServerApp itself says is the better message
            raise BackendError(f"the run failed: {reason}") from error
        raise
    summary = directory.summary()
    if summary is None:
        raise BackendError(
            f"back end {config.backend!r} ended without a summary in {directory.path}; "
            f"{len(directory.rounds())} rounds are finished"
        )
    return summary


def preflight(config: RunConfig) -> None:
    """Find what cannot work before any process starts: strategy, problem and data.

    Raises:
        UnsupportedProblemError: If the strategy cannot work on the scenario's problem.
        DataError: If the data are missing or damaged.
    """
    rng = seeding.generator(config.seed, "init")
    config.make_strategy().build(config.make_problem(), rng)
    scenario = config.make_scenario()
    for client in scenario.clients()["train"][:1]:
        scenario.statistics(client)


def default_directory(config: RunConfig) -> Path:
    """Return the first unused of runs/<scenario>-<strategy>-seed<seed>, ...-2, ...-3."""
    base = Path("runs") / f"{config.scenario}-{config.strategy}-seed{config.seed}"
    number = 1
    path = base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path
