"""One run over real sites, from the coordinator's side, to its end.

A run is a folder with a journal. Whatever ends the SuperLink or the ServerApp, the next attempt
starts both anew and goes on after the last committed round, as another run of Flower in the same
folder; the sites' SuperNodes connect again by themselves. Only an error of the ServerApp itself,
or attempts without any progress, end the command.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmaml.config import RunConfig, to_run_config
from fedmaml.core.errors import BackendError, QuorumError, RunDirectoryError
from fedmaml.provisioning.coordinator_file import Coordinator
from fedmaml.provisioning.roster import FILE as ROSTER
from fedmaml.provisioning.status import Status
from fedmaml.provisioning.superlink import STATE, Enrolment, start
from fedmaml.running import check_outcome
from fedmaml.runs.directory import RUNS, TOKEN, RunDirectory
from fedmaml.server.admission import APPROVED
from fedmaml.simulations.backends.apps import Apps
from fedmaml.simulations.backends.flower_processes import run_app, stop_runs, write_app
from fedmaml.simulations.backends.processes import Child, Workspace, workspace

APPS = Apps(server="fedmaml.server.app:app", client="fedmaml.sites.app:app")
MAX_VAIN_ATTEMPTS = 5
"""Attempts without a new round after which the command gives up."""
PAUSE_SECONDS = 2.0
ROSTER_SECONDS = 2.0
"""How often approved and revoked sites are looked for."""
ASK_SECONDS = 3.0
"""How often Flower is asked who is connected before round 1, which costs 0.7 s of CPU."""
CONNECTED_SECONDS = 20.0
"""How often afterwards."""

Run = dict[str, str | int | float | bool]
"""A run config, as Flower takes it."""

logger = logging.getLogger("fedmaml")


@dataclass(frozen=True)
class Federation:
    """Where a run goes.

    Attributes:
        folder: Of the coordinator.
        coordinator: What its file says.
        run: Run directory.
        patience: Seconds to wait for the sites to connect before round 1.
        say: Takes a line for the operator.
    """

    folder: Path
    coordinator: Coordinator
    run: Path
    patience: float
    say: Callable[[str], None]


def coordinate(config: RunConfig, federation: Federation) -> dict[str, Any]:
    """Run a configuration over the sites and return its summary.

    A folder that holds the same run is continued; if that is complete, its summary is returned.

    Args:
        config: What to run; ``nodes`` sites are waited for.
        federation: Where it runs.

    Raises:
        FedmamlError: If the run failed; what was finished before is kept.
    """
    out = federation.run
    directory = RunDirectory(out.absolute())
    if (done := _complete(directory, config)) is not None:
        federation.say(f"the run in {out} is complete")
        return done
    with directory.entered() as token:
        if not (directory.path / "config.toml").exists():
            directory.create(config)
        # A name without a folder: sites refuse a run config that names paths.
        run_config = to_run_config(config, Path(directory.path.name)) | {TOKEN: token}
        vain = 0
        while True:
            before = _rounds(directory)
            try:
                broken = _attempt(config, run_config, directory, federation)
            except KeyboardInterrupt:
                federation.say(f"what was finished is kept in {out}; the same command goes on")
                raise
            if broken is None:
                break
            vain = vain + 1 if _rounds(directory) == before else 0
            if vain >= MAX_VAIN_ATTEMPTS:
                raise BackendError(f"{vain} attempts without a new round; the last: {broken}")
            federation.say(f"{_first_line(broken)}; going on with the run in {out}")
            time.sleep(PAUSE_SECONDS)
    summary = directory.summary()
    if summary is None:
        raise BackendError(f"the run ended without a summary in {directory.path}")
    check_outcome(summary, directory)
    return summary


def _complete(directory: RunDirectory, config: RunConfig) -> dict[str, Any] | None:
    """Return the summary of a folder that holds this run already; None if it is not complete.

    Raises:
        RunDirectoryError: If it holds another run.
    """
    if not (directory.path / "config.toml").exists():
        return None
    if directory.config(with_data=False) != config:
        raise RunDirectoryError(
            f"{directory.path} holds a run with another configuration: name another folder with "
            "--out, or give the same options to go on with it"
        )
    return directory.summary()


def _attempt(
    config: RunConfig,
    run_config: Run,
    directory: RunDirectory,
    federation: Federation,
) -> BackendError | None:
    """Start a SuperLink, wait for the sites, submit the run and wait for its end.

    Returns:
        What cut the run short, if another attempt can go on; None: the run has ended.

    Raises:
        FedmamlError: If another attempt would end alike.
    """
    found = directory.reopen()
    if found.state is not None:
        federation.say(f"going on after round {found.state.round} of {config.rounds}")
    place = federation.folder.absolute() / STATE
    place.mkdir(mode=0o700, exist_ok=True)
    with workspace(place) as space:
        variables = {
            RUNS: str(directory.path.parent),
            APPROVED: str(federation.folder.absolute() / ROSTER),
        }
        superlink = start(space, federation.folder, federation.coordinator, **variables)
        try:
            _submit(config, run_config, space, superlink, federation)
        except QuorumError:
            raise
        except BackendError as error:
            if superlink.ended():  # the ServerApp failed because of it, if it did
                return error
            if known := directory.error():
                raise known from error
            if reason := directory.failure():
                raise BackendError(f"the run failed: {reason}") from error
            return error
    return None


def _submit(
    config: RunConfig, run_config: Run, space: Workspace, superlink: Child, federation: Federation
) -> None:
    """Wait for the sites, submit the run and wait for its end.

    Raises:
        BackendError: If it did not complete, for whatever reason.
    """
    stop_runs(space)  # those of a SuperLink that was killed
    enrolment = Enrolment(space, federation.folder)
    federation.say(
        f"the coordinator listens on {federation.coordinator.listen}; sites find it at "
        f"{federation.coordinator.address}"
    )
    with Status(federation.folder, federation.run) as status:
        _wait_for_sites(enrolment, config.nodes, superlink, federation, status)
        app = space.folder / "app"
        write_app(app, APPS, run_config)
        run_app(space, app, superlink, meanwhile=_meanwhile(enrolment, status))


def _wait_for_sites(
    enrolment: Enrolment, count: int, superlink: Child, federation: Federation, status: Status
) -> None:
    """Wait until enough sites are connected; says who is, and who is missing.

    Raises:
        QuorumError: If they are not in time.
        BackendError: If the SuperLink ends.
    """
    deadline, said = time.monotonic() + federation.patience, None
    while True:
        _looked_after(enrolment)
        online = status.connected(enrolment)
        missing = [name for name in federation.coordinator.sites if name not in online]
        if online != said:
            federation.say(
                f"connected: {', '.join(online) or 'nobody'}"
                + (f"; missing: {', '.join(missing)}" if missing else "")
            )
            said = online
        if len(online) >= count:
            return
        if superlink.ended():
            raise superlink.failure("the SuperLink ended", "Its log says why.")
        if time.monotonic() > deadline:
            raise QuorumError(
                f"{len(online)} of {count} sites connected within {federation.patience:g} s; "
                f"missing: {', '.join(missing)}. At each of them `fedmaml site doctor` says why; "
                "the same command goes on"
            )
        time.sleep(ASK_SECONDS)


def _looked_after(enrolment: Enrolment) -> None:
    """Enrol and remove sites; a SuperLink that is busy is asked again the next time."""
    try:
        enrolment.take_over()
    except BackendError as error:
        logger.warning("%s", error)


def _meanwhile(enrolment: Enrolment, status: Status) -> Callable[[], None]:
    """Return what is done while a run goes on."""
    enrolled = _every(ROSTER_SECONDS, lambda: _looked_after(enrolment))
    connected = _every(CONNECTED_SECONDS, lambda: status.connected(enrolment))

    def both() -> None:
        enrolled()
        connected()

    return both


def _every(seconds: float, what: Callable[[], object]) -> Callable[[], None]:
    """Return a function that does something, but not more often than every ``seconds``."""
    last = time.monotonic()

    def sometimes() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            what()

    return sometimes


def _rounds(directory: RunDirectory) -> int:
    path = directory.path / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
