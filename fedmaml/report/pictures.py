"""Drawings that somebody put beside the runs: ``DIR/pictures``, SVG or PNG, shown as they are.

A report is made from runs, which know metrics and no client's data. What a model predicts is drawn
where the data are, by whoever has them; here it comes to the page. The caption is the file's name.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmaml.core.errors import RunDirectoryError

FOLDER = "pictures"
_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """A drawing and what it shows.

    Attributes:
        caption: The file's name, in words.
        source: The file as a data URI; as the source of an image, no script in it runs.
    """

    caption: str
    source: str


def pictures_in(directories: Sequence[Path]) -> list[Picture]:
    """Return the drawings in the folder ``pictures`` of each directory, by name.

    Raises:
        RunDirectoryError: If one cannot be read.
    """
    files = (file for each in directories for file in sorted((each / FOLDER).glob("*")))
    return [_picture(file) for file in files if file.suffix.lower() in _TYPES]


def _picture(file: Path) -> Picture:
    try:
        content = base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise RunDirectoryError(
            f"{file} cannot be read: {error.strerror}; mend or remove it"
        ) from error
    words, kind = file.stem.replace("_", " "), _TYPES[file.suffix.lower()]
    return Picture(words[:1].upper() + words[1:], f"data:{kind};base64,{content}")
