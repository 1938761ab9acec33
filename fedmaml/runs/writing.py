"""Writes files whole: a reader finds the old file or the new one, never a part."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fedmaml.core.errors import RunDirectoryError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name, flush it to the disk, then rename it.

    Raises:
        OSError: If that fails; the old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):  # the first error says what is wrong
            temporary.unlink(missing_ok=True)
        raise


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write files whole, and make their folders.

    Raises:
        RunDirectoryError: If one cannot be written.
    """
    for path, content in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunDirectoryError(f"cannot write {path}: {reason}") from error
