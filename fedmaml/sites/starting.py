"""Start a site's worker, find out whether it serves, and wait until it does.

One worker serves a site: it holds the lock beside the socket as long as it lives. A further one
waits for that lock, ready to take over; one that the site's app started ends instead. So a
supervisor may keep a worker running, and the site's app may start one that is missing, without
knowing of each other.

This module imports no PyTorch.
"""

import logging
import os
import stat
import sys
import time
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from fedmaml.core.errors import BackendError, ConfigurationError
from fedmaml.sites.site_file import Site
from fedmaml.sites.wire import OPTIONS, SERVICE

START_SECONDS: Final = 60.0
"""Patience with a worker that starts: it imports PyTorch, which takes seconds where much runs."""

IDLE_SECONDS: Final = 900.0
"""After this time without a request a worker ends that the site's app started."""

_CHECK_SECONDS, _PAUSE = 5.0, 0.05
_OTHERS_FIRST = 0.5  # seconds in which a waiting worker or a supervisor may take over

logger = logging.getLogger("fedmaml")


def worker_command(site_file: str | Path, idle: float = 0.0) -> list[str]:
    """Return the command that serves a site, for this app or for a supervisor.

    Args:
        site_file: The site's own file.
        idle: Seconds without a request after which the worker ends; 0: it does not.
    """
    command = [sys.executable, "-P", "-m", "fedmaml.sites.worker", str(site_file)]
    return [*command, "--idle", str(idle)] if idle else command


def channel_to(site: Site) -> grpc.Channel:
    """Return a channel to the site's worker, which may not be there yet.

    Raises:
        ConfigurationError: If others than the owner may open the folder of the socket.
    """
    refuse_open_folder(site.folders.worker)
    return grpc.insecure_channel(f"unix:{site.socket}", options=OPTIONS)


def serves(channel: grpc.Channel) -> bool:
    """Return whether a worker answers at the other end, and is ready."""
    request = HealthCheckRequest(service=SERVICE)
    try:
        answer = HealthStub(channel).Check(request, timeout=_CHECK_SECONDS)
    except grpc.RpcError:
        return False
    return bool(answer.status == HealthCheckResponse.SERVING)


def started(site_file: Path, site: Site, seconds: float = START_SECONDS) -> None:
    """Make sure that a worker serves the site: start one unless one is there; wait for it.

    Args:
        site_file: The site's own file.
        site: What it says.
        seconds: Patience.

    Raises:
        BackendError: If none serves in time; names the log.
    """
    made_private(site.folders.worker)
    begun = time.monotonic()
    child: int | None = None
    while not _answers(site):
        waited = time.monotonic() - begun
        if child is None and waited > _OTHERS_FIRST and not _is_locked(site.lock):
            logger.warning("no worker serves the site; one is started")
            child = _start(site_file, site)
        if child is not None and (code := _exit_code(child)) is not None:
            if code:
                raise BackendError(
                    f"the site's worker ended at once with exit code {code}; {site.log} says why"
                )
            child = None  # another one holds the lock
        if waited > seconds:
            raise BackendError(
                f"the site's worker did not serve within {seconds:g} s; {site.log} says why"
            )
        time.sleep(_PAUSE)


def made_private(folder: Path) -> None:
    """Make a folder that only its owner may open.

    Raises:
        ConfigurationError: If it is there already and others may open it, or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make the folder {folder}: {error.strerror}; name another one in the site's "
            "file, under [folders]"
        ) from error
    refuse_open_folder(folder)


def refuse_open_folder(folder: Path) -> None:
    """Refuse a folder that others than its owner, who must be this user, may open.

    Raises:
        ConfigurationError: Names the command that mends it.
    """
    try:
        found = folder.stat()
    except FileNotFoundError:
        return  # nobody can have put a socket there
    if found.st_uid != os.getuid():
        raise ConfigurationError(
            f"the folder {folder} belongs to another user (number {found.st_uid}), who could read "
            "the site's messages: name another one in the site's file (folders.worker)"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigurationError(
            f"other users may open the folder {folder} of the worker's socket: chmod 700 {folder}"
        )


def _answers(site: Site) -> bool:
    if not site.socket.exists():
        return False
    with channel_to(site) as channel:
        return serves(channel)


def _is_locked(path: Path) -> bool:
    """Return whether a worker holds the lock, one that starts included."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _start(site_file: Path, site: Site) -> int:
    """Start a worker that outlives this process, and ends when nobody asks it any more."""
    command = worker_command(site_file, IDLE_SECONDS)
    written = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, site.log, written, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _exit_code(child: int) -> int | None:
    """Return the exit code of a process that this one started; None while it runs."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None
