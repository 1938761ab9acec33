"""The coordinator's folder, and the file in it that says who takes part.

coordinator.toml    below; written by ``fedmaml coordinator init``
ca.crt  ca.key      the authority; sites get the first, nobody gets the second
server.crt server.key   of the SuperLink, and of the nginx before it
approved.toml       public keys of the sites that were approved
superlink/          what Flower stores: nodes, runs, installed apps; its log

    address = "fl.example.org:443"      # where sites find the coordinator
    listen = "127.0.0.1:9443"           # where the SuperLink listens; nginx stands before it
    sites = ["cleveland", "hungarian"]  # the names of all sites; a site's number is its place
"""

import os
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tomli_w
from annotated_types import MinLen
from pydantic import TypeAdapter, ValidationError

from fedmaml.core.errors import ConfigurationError
from fedmaml.core.settings import settings
from fedmaml.provisioning.certificates import (
    LOOPBACK,
    make_authority,
    make_server_certificate,
    names_of,
)
from fedmaml.runs.writing import write_whole
from fedmaml.sites.site_file import is_name

FILE = "coordinator.toml"
_PRIVATE_FOLDER = 0o700


@settings
class Coordinator:
    """A coordinator, as its file describes it.

    Attributes:
        address: "host:port" where sites find it.
        listen: "host:port" on which the SuperLink listens.
        sites: Names of all sites, in the order of their numbers.
    """

    address: str
    listen: str
    sites: Annotated[tuple[str, ...], MinLen(1)]


def host_and_port(address: str) -> tuple[str, int]:
    """Return the parts of "host:port"; an IPv6 address is in brackets.

    Raises:
        ConfigurationError: If it is something else.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(
            f"{address!r} is no address: write host:port, e.g. fl.example.org:443"
        )
    return host, int(port)


def make_coordinator(folder: Path, coordinator: Coordinator, names: Sequence[str] = ()) -> None:
    """Make the folder of a new coordinator: authority, server certificate, file.

    Args:
        folder: Is made, for its owner alone.
        coordinator: What the file says.
        names: Further host names and addresses by which sites reach the server.

    Raises:
        ConfigurationError: If the folder holds one already, or names are wrong.
    """
    if (folder / FILE).exists():
        raise ConfigurationError(
            f"{folder} holds a coordinator already: sites trust its authority; renew its server "
            f"certificate with: fedmaml coordinator renew {folder}"
        )
    refuse_names(coordinator.sites)
    host, _ = host_and_port(coordinator.address)
    inner, _ = host_and_port(coordinator.listen)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(_PRIVATE_FOLDER)
    make_authority(folder / "ca.crt", folder / "ca.key", f"fedmaml coordinator {host}")
    wanted = dict.fromkeys((host, *names, inner, *LOOPBACK))
    _make_server(folder, list(wanted))
    text = tomli_w.dumps(asdict(coordinator))
    write_whole(folder / FILE, text.encode(), private=True)


def renew(folder: Path, also: Sequence[str] = ()) -> list[str]:
    """Replace the server's certificate by one that begins now; return its names.

    Args:
        folder: Of the coordinator.
        also: Names and addresses that the old certificate lacks.
    """
    read_coordinator(folder)
    names = list(dict.fromkeys([*names_of(folder / "server.crt"), *also]))
    _make_server(folder, names)
    return names


def read_coordinator(folder: Path) -> Coordinator:
    """Read the file of a coordinator's folder.

    Raises:
        ConfigurationError: If it is missing or wrong.
    """
    path = folder / FILE
    try:
        made: Coordinator = TypeAdapter(Coordinator).validate_python(
            tomllib.loads(path.read_text(encoding="utf-8"))
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}; `fedmaml coordinator init {folder}` makes it"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"{path}: {key} = {first['input']!r}: {first['msg']}") from error
    refuse_names(made.sites)
    host_and_port(made.address)
    host_and_port(made.listen)
    return made


def refuse_names(names: Sequence[str]) -> None:
    """Refuse names of sites that are no names, or twice there."""
    for name in names:
        if not is_name(name):
            raise ConfigurationError(
                f"{name!r} is no name of a site: write lower-case letters, digits, '.', '_', '-'"
            )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"a site is named twice: {', '.join(names)}")


def _make_server(folder: Path, names: list[str]) -> None:
    authority = folder / "ca.crt", folder / "ca.key"
    make_server_certificate(folder / "server.crt", folder / "server.key", authority, names)


def is_private(path: Path) -> bool:
    """Return whether only its owner may read a file or folder; True where there are no modes."""
    return os.name == "nt" or not path.stat().st_mode & 0o077
