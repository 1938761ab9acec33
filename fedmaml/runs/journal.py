"""The journal: the finished rounds of a run, in order, and its state after the last of them.

    rounds.jsonl                  one line per finished round, see `runs.chain`
    journal.safetensors           the state after a round, see `runs.state`
    journal.previous.safetensors  the state that was committed before it

A commit makes everything so far safe against a killed process and a machine without power: flush
the lines to the disk; write the state under another name and flush it; rename the old state, then
the new one; flush the folder. A state holds the SHA-256 of all its bytes, that of the state before
it, that of the configuration, and the length of the lines that belong to it. So a damaged state is
found, and the one before it is used; lines that follow are cut off and computed again.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fedmaml.core.errors import RunDirectoryError
from fedmaml.core.records import RoundRecord
from fedmaml.runs.chain import LINES, NEWEST, PREVIOUS, Lines, follow, line_after
from fedmaml.runs.sealing import seal, unseal
from fedmaml.runs.state import RunState, from_parts, to_parts
from fedmaml.runs.writing import (
    cannot_write,
    flush_folder,
    how_to_resume,
    open_private,
    write_all_of,
    write_whole,
)

_FORMAT = "2"


class Found(NamedTuple):
    """The newest sound state of a journal.

    Attributes:
        state: None if the run has committed none yet.
        sha256: Of its bytes.
        damaged: Newer states that cannot be used, and why.
    """

    state: RunState | None
    sha256: str
    damaged: dict[str, str]


class Journal:
    """Writes the journal of a run.

    Args:
        folder: Of the run.
        anchor: SHA-256 of the configuration.
        check: Called before every write; raises if the folder is no longer that of this run.
    """

    def __init__(self, folder: Path, anchor: str, check: Callable[[], None] = lambda: None) -> None:
        self._folder, self._anchor, self._check = folder, anchor, check
        self._path = folder / LINES
        self._file: int | None = None
        self._lines = Lines(sha256=anchor)
        self._parent = ""
        self._committed = -1
        self._committed_at, self._took = time.monotonic(), 0.0

    def go_on(self, found: "Found") -> None:
        """Continue after a state that `newest` found."""
        if found.state is not None:
            self._lines, self._committed = found.state.lines, found.state.round
            self._parent = found.sha256

    def append(self, record: RoundRecord) -> Lines:
        """Add the line of a finished round; return the lines so far.

        Raises:
            RunDirectoryError: If it cannot be written, or the file was removed or replaced.
        """
        self._check()
        line, lines = line_after(self._lines, record.to_json())
        try:
            if self._file is None:
                self._file = open_private(self._path, self._lines.size)
            elif not os.path.samestat(os.fstat(self._file), os.stat(self._path)):
                raise FileNotFoundError(0, "another file is in its place")
            write_all_of(self._file, line)
        except OSError as error:
            with suppress(OSError):  # the first error says what is wrong
                os.truncate(self._path, self._lines.size)
            cure = how_to_resume(self._folder)
            raise cannot_write(self._path, len(line), error, cure) from error
        self._lines = lines
        return lines

    def commit(self, state: Callable[[], RunState], at_most_every: float = 0.0) -> None:
        """Make the run's state safe, unless that was done recently.

        Args:
            state: Called only for a commit: collecting memories may take long.
            at_most_every: Least seconds between two commits; longer if a commit is slow, so that
                commits take at most a fiftieth of the time. 0: always commit.

        Raises:
            RunDirectoryError: If it cannot be written, or the folder is another run's now.
        """
        started = time.monotonic()
        pause = max(at_most_every, 50 * self._took)
        if at_most_every and started - self._committed_at < pause:
            return
        self._check()
        current = state()
        if current.round == self._committed:
            return
        self._write(current)
        self._committed = current.round
        self._committed_at = time.monotonic()
        self._took = self._committed_at - started

    def _write(self, state: RunState) -> None:
        tensors, texts = to_parts(state)
        texts |= {"format": _FORMAT, "config": self._anchor, "parent": self._parent}
        parts, sha256 = seal(tensors, texts)
        newest, previous = self._folder / NEWEST, self._folder / PREVIOUS

        def keep_the_old_one() -> None:
            with suppress(FileNotFoundError):  # there is none yet
                newest.replace(previous)

        try:
            if self._file is not None:
                os.fsync(self._file)
            write_whole(newest, *parts, private=True, before_renaming=keep_the_old_one)
            flush_folder(self._folder)
        except OSError as error:
            size, cure = sum(map(len, parts)), how_to_resume(self._folder)
            raise cannot_write(newest, size, error, cure) from error
        self._parent = sha256

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def newest(folder: Path, anchor: str) -> Found:
    """Return the newest state whose bytes and lines are sound.

    Raises:
        RunDirectoryError: If there are states and none is sound, or they are another
            configuration's or another format's.
    """
    damaged: dict[str, str] = {}
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state, sha256 = _from_bytes(path.read_bytes(), anchor)
            _check_lines(folder / LINES, anchor, state.lines)
        except (_DamagedError, OSError) as error:
            damaged[name] = str(error)
            continue
        return Found(state, sha256, damaged)
    if damaged:
        reasons = "; ".join(f"{name}: {why}" for name, why in damaged.items())
        raise RunDirectoryError(f"no state in {folder} is sound ({reasons})")
    return Found(None, "", {})


def cut_back(folder: Path, found: Found) -> None:
    """Remove damaged states, the lines that follow the sound one, and unfinished files."""
    path, lines = folder / LINES, found.state.lines if found.state else Lines()
    for name in found.damaged:
        (folder / name).unlink()
    if path.exists() and path.stat().st_size > lines.size:
        os.truncate(path, lines.size)
    for left_over in folder.glob(".*.tmp"):
        left_over.unlink(missing_ok=True)


class _DamagedError(Exception):
    """A state that cannot be used; the text says why."""


def _from_bytes(content: bytes, anchor: str) -> tuple[RunState, str]:
    try:
        tensors, texts, sha256 = unseal(content)
        if (found := texts["format"]) != _FORMAT:
            raise RunDirectoryError(f"the state has format {found}, this fedmaml reads {_FORMAT}")
        if texts["config"] != anchor:
            raise RunDirectoryError("config.toml was changed after the run began")
        return from_parts(tensors, texts), sha256
    except ValueError as error:
        raise _DamagedError(str(error)) from error
    except (KeyError, TypeError) as error:
        raise _DamagedError(f"{type(error).__name__}: {error}") from error


def _check_lines(path: Path, anchor: str, lines: Lines) -> None:
    """Refuse a state whose lines are not there as they were written."""
    try:
        for there in follow(path, anchor):
            if there.number == lines.number:
                if there == lines:
                    return
                break
    except RunDirectoryError as error:
        raise _DamagedError(str(error)) from error
    raise _DamagedError(f"the {lines.number} lines of {path.name} that belong to it are not there")
