"""Writes files whole: a reader finds the old file or the new one, never a part."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from fedmaml.core.errors import DiskError

_PRIVATE, _SHARED = 0o600, 0o666  # the second as the umask allows


def write_whole(
    path: Path,
    *parts: bytes,
    private: bool = False,
    before_renaming: Callable[[], None] | None = None,
) -> None:
    """Write a file under another name, flush it to the disk, then rename it.

    Args:
        path: Of the file.
        parts: Its content.
        private: Whether only its owner may read it.
        before_renaming: Called when the new content is safe on the disk.

    Raises:
        OSError: If that fails; the old file is unchanged. It names the file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()  # left by a process that was killed
        descriptor = _open(temporary, os.O_WRONLY | os.O_EXCL, private)
        try:
            for part in parts:
                write_all_of(descriptor, part)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if before_renaming is not None:
            before_renaming()
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # the first error says what is wrong
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write files whole, and make their folders.

    Raises:
        DiskError: If one cannot be written.
    """
    for path, content in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise cannot_write(path, len(content), error) from error


def open_private(path: Path, size: int) -> int:
    """Open a file that only its owner may read, cut it to a size, and return its descriptor."""
    descriptor = _open(path, os.O_RDWR | os.O_APPEND, private=True)
    os.ftruncate(descriptor, size)
    return descriptor


def write_all_of(descriptor: int, content: bytes) -> None:
    """Write bytes; where a disk takes only some of them, the next try raises the reason."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def flush_folder(folder: Path) -> None:
    """Flush the names of the files in a folder to the disk."""
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, size: int, error: OSError, cure: str = "") -> DiskError:
    """Return an error that names the file, its bytes, the reason and the cure."""
    reason = error.strerror or str(error)
    end = f"; {cure}" if cure else ""
    return DiskError(f"cannot write {path} ({size:,} bytes): {reason}{end}")


def how_to_resume(folder: Path) -> str:
    """Return the cure of a run whose folder could not be written to for a while."""
    return f"make room there, then go on with: fedmaml run --resume {folder}"


def _open(path: Path, flags: int, private: bool) -> int:
    binary = getattr(os, "O_BINARY", 0)  # of Windows
    return os.open(path, flags | os.O_CREAT | binary, _PRIVATE if private else _SHARED)
