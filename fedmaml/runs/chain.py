"""The chain of ``rounds.jsonl``: every line holds the SHA-256 of the line before it.

The first line holds that of ``config.toml``, and ``summary.json`` that of the last line, so a line
that was changed, removed or added afterwards is found.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedmaml.core.errors import RunDirectoryError

LINES = "rounds.jsonl"
NEWEST, PREVIOUS = "journal.safetensors", "journal.previous.safetensors"
"""Files of the journal, see `runs.journal`."""

PARENT = "parent"


class Lines(NamedTuple):
    """The first lines of a file.

    Attributes:
        number: How many there are.
        size: Their length in bytes.
        sha256: Of the last line without its end; of what the chain hangs on, if there is none.
    """

    number: int = 0
    size: int = 0
    sha256: str = ""


def line_after(lines: Lines, record: Mapping[str, Any]) -> tuple[bytes, Lines]:
    """Return a record as the next line, and the lines with it."""
    line = json.dumps({**record, PARENT: lines.sha256}).encode()
    size = lines.size + len(line) + 1
    return line + b"\n", Lines(lines.number + 1, size, hashlib.sha256(line).hexdigest())


def follow(path: Path, anchor: str) -> Iterator[Lines]:
    """Yield the lines of a file up to each one, as long as the chain holds.

    Args:
        path: Of the file; a missing one has no lines.
        anchor: What the first line must hang on.

    Raises:
        RunDirectoryError: At the first line that does not hang on the one before it.
    """
    lines = Lines(sha256=anchor)
    yield lines
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            text = line.removesuffix(b"\n")
            if text == line:
                return  # cut short, or being written
            if _parent(text) != lines.sha256:
                before = f"line {lines.number}" if lines.number else "config.toml"
                raise RunDirectoryError(
                    f"line {lines.number + 1} of {path} does not follow from {before}: one of them "
                    "was changed, removed or added after the run wrote it"
                )
            sha256 = hashlib.sha256(text).hexdigest()
            lines = Lines(lines.number + 1, lines.size + len(line), sha256)
            yield lines


def _parent(line: bytes) -> object:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record.get(PARENT) if isinstance(record, dict) else None
