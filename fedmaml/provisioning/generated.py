"""Files for the machines of a federation: nginx, systemd units, container files."""

import sys
from collections.abc import Mapping
from getpass import getuser
from importlib.resources import files
from pathlib import Path
from string import Template

from fedmaml import __version__
from fedmaml.core.errors import ConfigurationError
from fedmaml.provisioning.certificates import LOOPBACK, names_of
from fedmaml.provisioning.coordinator_file import host_and_port, read_coordinator
from fedmaml.runs.writing import write_all
from fedmaml.sites.site_file import read_site_file

LARGEST_OBJECT_MEGABYTES = 16
"""Flower cuts arrays into objects of 5 MiB; a message's other parts are smaller."""
CONTAINER_USER = 10001


class _AtTemplate(Template):
    """A text with ``@{name}`` where something is put in; nginx has its own use for ``$``."""

    delimiter = "@"
    idpattern = None  # type: ignore[assignment]
    braceidpattern = r"(?a:[a-z]+)"


def coordinator_files(
    folder: Path, out: Path, megabytes: int = LARGEST_OBJECT_MEGABYTES
) -> list[Path]:
    """Write the files for a coordinator's machine; return their paths.

    Args:
        folder: Of the coordinator; gets a ``run.toml`` if it has none.
        out: Where they are written.
        megabytes: Largest object that a site may send at once.
    """
    coordinator, place = read_coordinator(folder), folder.absolute()
    _, port = host_and_port(coordinator.address)
    names = [name for name in names_of(folder / "server.crt") if name not in LOOPBACK]
    values = _values() | {
        "folder": str(place),
        "work": str(Path.cwd()),
        "listen": coordinator.listen,
        "port": str(port),
        "names": " ".join(names or LOOPBACK),
        "megabytes": str(megabytes),
        "sites": str(len(coordinator.sites)),
    }
    wanted = ("nginx.conf", "fedmaml-coordinator.service", "Containerfile.coordinator")
    if not (folder / "run.toml").exists():
        write_all({folder / "run.toml": _filled("run.toml", values)})
    return _write(out, wanted, values)


def site_files(file: Path, out: Path) -> list[Path]:
    """Write the files for a site's machine; return their paths.

    Args:
        file: The site's own file.
        out: Where they are written.
    """
    site = read_site_file(file)
    writable = dict.fromkeys((file.parent.absolute(), site.folders.memories.parent,
                              site.folders.worker.parent))  # fmt: skip
    values = _values() | {
        "folder": str(file.parent.absolute()),
        "name": site.name,
        "writable": " ".join(map(str, writable)),
    }
    return _write(out, ("fedmaml-site.service", "Containerfile.site"), values)


def _values() -> dict[str, str]:
    return {
        "python": sys.executable,
        "user": getuser(),
        "uid": str(CONTAINER_USER),
        "version": ".".join(map(str, sys.version_info[:2])),
        "fedmaml": __version__,
    }


def _write(out: Path, names: tuple[str, ...], values: Mapping[str, str]) -> list[Path]:
    for key, value in values.items():
        if any(letter in value for letter in "\n;{}\"'"):
            raise ConfigurationError(
                f"{key} = {value!r} cannot stand in a configuration of nginx or systemd: move the "
                "folder to a plain path"
            )
    made = {out / name: _filled(name, values) for name in names}
    write_all(made)
    return list(made)


def _filled(name: str, values: Mapping[str, str]) -> bytes:
    text = files("fedmaml.provisioning").joinpath("files", name).read_text(encoding="utf-8")
    return _AtTemplate(text).substitute(values).encode()
