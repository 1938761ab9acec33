"""Locks on run folders: one command at a time may write, and the server that it started.

    held(folder, "command")   by a command, from before it writes anything until its run has ended
    held(folder, "server")    by the ServerApp, which on Flower is another process and may outlive a
                              killed command

The operating system frees a lock when its holder ends, however it ends, so none is ever stale. The
lock files are empty and stay; beside them, while a lock is held, stands who holds it.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from fedmaml.core.errors import RunDirectoryError
from fedmaml.runs.writing import write_whole

Role = Literal["command", "server"]

_ELSE = "or choose another folder with --out"


ENDING_SECONDS = 15.0
"""How long the server of a killed command may take to end: twice the watchdog's grace, and more."""

_NOTE_SECONDS = 2.0
"""How long a holder may take, on a busy machine, to write who it is."""


@contextmanager
def held(folder: Path, role: Role, wait: float = 0.0) -> Iterator[str]:
    """Hold a folder that exists; yields a token by which others recognise this holder.

    Args:
        folder: The folder of a run.
        role: Who holds it.
        wait: Seconds to wait for another holder to end.

    Raises:
        RunDirectoryError: If another still holds it then; says who, and what to do.
        OSError: If the folder cannot be written to.
    """
    lock = FileLock(_lock(folder, role), mode=0o600)
    try:
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise RunDirectoryError(_who_holds(folder, role)) from error
    note, token = _note(folder, role), uuid.uuid4().hex
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "token": token}
        write_whole(note, json.dumps(holder).encode(), private=True)
        yield token
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def refuse_if_held(folder: Path, role: Role, wait: float = 0.0) -> None:
    """Make sure that no process holds a folder; arguments as of `held`.

    Raises:
        RunDirectoryError: If one does.
    """
    with held(folder, role, wait):
        pass


def is_held_by(folder: Path, role: Role, token: str) -> bool:
    """Return whether the holder of this token holds the folder, or was the last to hold it."""
    return _holder(folder, role).get("token") == token


def same_folder(folder: Path, role: Role) -> Callable[[], None]:
    """Return a check that a held folder was not removed or replaced since.

    The holder keeps the lock file open, so no other file gets its identity.
    """
    before = _lock(folder, role).stat()

    def check() -> None:
        try:
            same = os.path.samestat(before, _lock(folder, role).stat())
        except OSError:
            same = False
        if not same:
            raise RunDirectoryError(
                f"{folder} was removed or replaced while a run was writing to it; this run ends "
                "and writes nothing more; begin it again with another --out"
            )

    return check


def command_lives(folder: Path) -> Callable[[], None]:
    """Return a check that the command that holds a folder now has not ended since.

    A command on another machine cannot be seen, and passes.
    """
    holder = _holder(folder, "command")
    pid, here = holder.get("pid"), holder.get("host") == socket.gethostname()
    watched = pid if isinstance(pid, int) and here and pid != os.getpid() else None

    def check() -> None:
        if watched is not None and not pid_exists(watched):
            raise RunDirectoryError(
                f"the command that started the run in {folder} (process {watched}) was killed; "
                f"go on with: fedmaml run --resume {folder}"
            )

    return check


def pid_exists(pid: int) -> bool:
    """Return whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # there is one, of another user
        return True
    return True


def _lock(folder: Path, role: Role) -> Path:
    return folder / f".{role}.lock"


def _note(folder: Path, role: Role) -> Path:
    return folder / f".{role}.json"


def _holder(folder: Path, role: Role) -> dict[str, object]:
    """Return the note of the holder; {} in the moment before it is written."""
    try:
        note = json.loads(_note(folder, role).read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _who_holds(folder: Path, role: Role) -> str:
    deadline = time.monotonic() + _NOTE_SECONDS
    while not (holder := _holder(folder, role)) and time.monotonic() < deadline:
        time.sleep(_NOTE_SECONDS / 40)
    pid, host = holder.get("pid"), holder.get("host")
    here = host == socket.gethostname()
    who = f"process {pid}" + ("" if here else f" on {host}") if pid else "a process"
    end = f"end it (kill {pid})" if pid and here else "end it"
    if role == "command":
        return f"another command is writing to {folder}: {who}; wait for it, {end}, {_ELSE}"
    return (
        f"the server of a command that was killed still writes to {folder}: {who}; wait for it, "
        f"{end}, {_ELSE}"
    )
