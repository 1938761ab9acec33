"""Files of public data sets: taken from a folder, or downloaded once; checked by their digests."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, update_wrapper
from pathlib import Path
from typing import Generic, TypeVar

from fedmaml.core.errors import DataError

T = TypeVar("T")

_TIMEOUT = 10  # seconds without an answer


@dataclass(frozen=True)
class DataFile:
    """A file as its publisher made it, or as it was converted once.

    Attributes:
        folder: Name of the data set's folder.
        name: Of the file.
        digest: "sha256:<hex>", or "md5:<hex>" where the publisher names nothing better.
        address: URL for a download; "" if the file cannot be downloaded in this form.
        source: Who publishes it, for messages.
    """

    folder: str
    name: str
    digest: str
    address: str = ""
    source: str = ""


def data_folder(data_dir: str) -> str:
    """Return the folder that holds one folder per data set; "" if none is given.

    Args:
        data_dir: As given by the user; "" means the environment variable FEDMAML_DATA.
    """
    return data_dir or os.environ.get("FEDMAML_DATA", "")


class read_once(Generic[T]):  # noqa: N801 - a decorator
    """Keep what a function reads from a folder of `data_folder`, for the last two folders.

    Args:
        read: Folder -> data.
    """

    def __init__(self, read: Callable[[str], T]) -> None:
        update_wrapper(self, read)
        self._kept = lru_cache(maxsize=2)(read)

    def __call__(self, data_dir: str = "") -> T:
        """Return the data; "" names the folder of the environment variable FEDMAML_DATA."""
        return self._kept(data_folder(data_dir))

    def cache_clear(self) -> None:
        """Forget all data."""
        self._kept.cache_clear()


def located(file: DataFile, folder: str) -> Path:
    """Return where a file lies, checked.

    Args:
        file: The file.
        folder: From `data_folder`; "" means a download, kept in the user's cache.

    Raises:
        DataError: If the file is missing and cannot be downloaded, or is not the original.
    """
    return _given(file, Path(folder)) if folder else downloaded(file)


def downloaded(file: DataFile) -> Path:
    """Return the copy of a file in the user's cache; download it if there is none.

    Raises:
        DataError: If it cannot be downloaded, or is not the original.
    """
    where = (
        f"copy {file.name} into a folder {file.folder} and name the folder above it with "
        "--data-dir or FEDMAML_DATA"
    )
    if not file.address:
        raise DataError(
            f"{file.name} cannot be downloaded in this form (source: {file.source}): {where}"
        )
    import pooch

    try:
        return Path(
            pooch.retrieve(
                file.address,
                known_hash=file.digest,
                fname=file.name,
                path=cache(file.folder),
                downloader=pooch.HTTPDownloader(timeout=_TIMEOUT),
            )
        )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError: wrong hash
        raise DataError(
            f"cannot download {file.address} ({type(error).__name__}): either connect this "
            f"machine to the internet, or {where}"
        ) from error


def cache(folder: str) -> Path:
    """Return the folder of the user's cache in which the files of a data set are kept."""
    import pooch

    return Path(pooch.os_cache("fedmaml")) / folder


def digest_of(content: bytes, like: str) -> str:
    """Return the digest of some bytes by the algorithm of ``like``, "sha256:<hex>"."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()}"


def _given(file: DataFile, folder: Path) -> Path:
    path = folder / file.folder / file.name
    download = f"to download it from {file.source}" if file.address else ""
    if not path.is_file():
        otherwise = f", or neither {download}" if download else ""
        raise DataError(
            f"no file {path}: a data folder must hold one folder per data set; give --data-dir "
            f"or FEDMAML_DATA a folder with {file.folder}/{file.name} (source: {file.source})"
            f"{otherwise}"
        )
    found = digest_of(path.read_bytes(), file.digest)
    if found != file.digest:
        algorithm, _, expected = file.digest.partition(":")
        named = {"sha256": "SHA-256", "md5": "MD5"}[algorithm]
        otherwise = f", or give no data folder {download}" if download else ""
        raise DataError(
            f"{path} is not the original file of {file.source}: its {named} is "
            f"{found.partition(':')[2]}, expected {expected}; replace it{otherwise}"
        )
    return path
