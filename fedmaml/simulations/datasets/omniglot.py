"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov, Tenenbaum. Human-level concept learning through probabilistic program
induction. Science 350, 2015. MIT; https://github.com/brendenlake/omniglot.

The publisher's two archives are downloaded once and converted: 28x28 pixels (Lanczos), ink 255,
sorted by background or evaluation, alphabet, character and drawer. The result is checked, too.
"""

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from fedmaml.core.errors import DataError
from fedmaml.simulations.datasets.files import DataFile, cache, located, read_once

SIZE = 28
CHARACTERS = 1623
DRAWERS = 20
ALPHABETS = 50
BACKGROUND_ALPHABETS = 30
_PUBLISHER = "https://github.com/brendenlake/omniglot"
_ADDRESS = f"{_PUBLISHER}/raw/master/python/"
ARCHIVES = tuple(
    DataFile("omniglot", name, f"md5:{digest}", _ADDRESS + name, _PUBLISHER)
    for name, digest in (
        ("images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
        ("images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
    )
)
CONVERTED = DataFile(
    "omniglot",
    "omniglot_28x28.npz",
    "sha256:54da73d9c85ac6a065f287d46980638a60ecbb97737215bda952dc845927a2d1",
    source=_PUBLISHER,
)
PIXELS_SHA256 = (
    "255fbb66efe334ae4ffdf873a5d430b6232d966a38612f804baa3297751298c5"  # of the pixels alone
)


@dataclass(frozen=True, eq=False)
class Omniglot:
    """All drawings.

    Attributes:
        images: uint8 ``(1623, 20, 28, 28)``: character, drawer, pixels; ink 255, paper 0.
        alphabet: Index of each character's alphabet, int64 ``(1623,)``; the first 30 alphabets are
            the publisher's background set, the other 20 its evaluation set.
    """

    images: Tensor
    alphabet: Tensor


@read_once
def load(data_dir: str = "") -> Omniglot:
    """Return all drawings.

    Args:
        data_dir: Folder that holds a folder ``omniglot`` with the publisher's two archives, or
            with ``omniglot_28x28.npz``, converted; "" means the environment variable FEDMAML_DATA,
            and a download where that is not set either.

    Raises:
        DataError: If the files are missing and cannot be downloaded, or are not the originals.
    """
    if data_dir and not _has_archives(data_dir):
        with np.load(located(CONVERTED, data_dir), allow_pickle=False) as arrays:
            images, alphabet = arrays["images"], arrays["alphabet_id"]
    else:
        images, alphabet = _kept(data_dir)
    shape = (CHARACTERS, DRAWERS, SIZE, SIZE)
    return Omniglot(
        torch.from_numpy(images.reshape(shape)),
        torch.from_numpy(alphabet.reshape(shape[:2])[:, 0].astype(np.int64)),
    )


def _has_archives(folder: str) -> bool:
    return (Path(folder) / ARCHIVES[0].folder / ARCHIVES[0].name).is_file()


def _kept(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and alphabets from the user's cache; convert the archives if it has none."""
    path = cache(CONVERTED.folder) / CONVERTED.name
    if path.is_file():
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                kept = arrays["images"], arrays["alphabet_id"]
            if _digest(kept[0]) == PIXELS_SHA256:
                return kept
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # cut short, or still being written: made again
    images, alphabet = converted([located(archive, folder) for archive in ARCHIVES])
    if (found := _digest(images)) != PIXELS_SHA256:
        raise DataError(
            f"Omniglot's images became others on their way to {SIZE}x{SIZE} pixels: SHA-256 "
            f"{found}, expected {PIXELS_SHA256}; this version of Pillow resizes differently: "
            "install another, e.g. pip install 'pillow<13'"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, images=images, alphabet_id=alphabet)
    return images, alphabet


def converted(archives: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 ``(drawings, 28, 28)`` and alphabets ``(drawings,)`` of some archives.

    Raises:
        DataError: If Pillow, which reads the images, is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise DataError(
            "reading Omniglot's archives needs Pillow: pip install 'fedmaml[images]'"
        ) from error
    images, alphabets = [], []
    known: list[tuple[str, str]] = []
    for archive, alphabet, entry in _drawings(archives):
        if (archive, alphabet) not in known:
            known.append((archive, alphabet))
        with Image.open(entry) as drawing:
            small = drawing.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        images.append(255 - np.asarray(small))
        alphabets.append(known.index((archive, alphabet)))
    return np.stack(images), np.array(alphabets, np.uint8)


def _drawings(archives: list[Path]) -> Iterator[tuple[str, str, IO[bytes]]]:
    """Yield archive, alphabet and open file of every drawing, sorted."""
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(name for name in archive.namelist() if name.endswith(".png")):
                _, alphabet, _character, _file = name.split("/")
                with archive.open(name) as entry:
                    yield path.name, alphabet, entry


def _digest(images: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
