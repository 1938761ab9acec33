"""The site's own file, ``site.toml``: everything about a site that only the site decides.

Which data, folders and limits a site uses stands here and nowhere else: a run configuration, which
comes from the coordinator, may name none of them. A path that is not absolute starts in the folder
of the file. No key names code of the coordinator: a site runs what is installed on it.

    name = "cleveland"              # approved by the coordinator together with the node key
    number = 0                      # which of the federation's sites it is, from 0; the
    sites = 4                       # coordinator says both when it approves the site

    [data]                          # one of the three, or none if the scenario makes its own data
    folder = "data"                 # a folder with one folder per data set ("data_dir")
    # table = "patients.csv"        # a CSV or Parquet file, one row an example
    # target = "disease"            #   and its column to predict
    # module = "wards.data:load"    # an installed function that returns inputs and targets

    [folders]
    memories = "memories"           # what the site's client keeps between rounds
    worker = "worker"               # socket, lock and log of the worker; nobody else may open it

    [limits]
    message_bytes = 268435456       # largest request or reply
    processes = 1                   # processes that compute; a run that asks for more gets these
    cpus = 0                        # CPU cores that they may use; 0: all

    [coordinator]
    address = "fl.example.org:443"  # of the SuperLink
    certificate = "ca.crt"          # of the authority that signed the SuperLink's certificate
    key = "node.key"                # private key of the node; it signs replies and never leaves

A SuperNode names the file in its ``--node-config``: ``site-file="/etc/fedmaml/site.toml"``. The run
configuration of a real federation has the clientapp ``fedmaml.sites.app:app`` and names no path:
``out`` is a plain name, of a folder below FEDMAML_RUNS of the coordinator (`config.at_site`). The
coordinator's keys of approved sites are in the file that FEDMAML_APPROVED names
(`server.admission`). This module imports neither PyTorch nor Flower.
"""

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final

import tomli_w
from annotated_types import Ge, Gt, Le
from pydantic import TypeAdapter, ValidationError

from fedmaml.core.errors import ConfigurationError
from fedmaml.core.settings import settings
from fedmaml.runs.writing import write_whole
from fedmaml.simulations.backends import SITE_FILE

NODE_CONFIG_KEY: Final = SITE_FILE
"""Entry in a SuperNode's ``--node-config`` that holds the path of the file."""

MAX_NAME: Final = 64
"""Longest name of a site."""

MAX_SITES: Final = 100_000
"""Most sites of a federation."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_SOCKET_BYTES = 103  # of the path of a Unix socket: 107 on Linux, 103 on macOS
_SOCKET, _LOCK, _LOG = "worker.sock", "worker.lock", "worker.log"


@settings
class Data:
    """Where the site's examples are: exactly one of folder, table and module, or none of them.

    Attributes:
        folder: Holds one folder per data set, as ``data_dir`` does; None: not given.
        table: CSV or Parquet file with a header, one row an example.
        target: Column of the table to predict.
        module: "package.module:function" of an installed package. The function takes nothing and
            returns inputs ``(rows, *features)`` and targets ``(rows,)``, or a pandas frame in which
            ``target`` is a column.
    """

    folder: Path | None = None
    table: Path | None = None
    target: str = ""
    module: str = ""


@settings
class Folders:
    """Folders that the site's processes write to; made when needed, for their owner alone.

    Attributes:
        memories: What the site's clients keep between rounds.
        worker: Socket, lock and log of the site's worker.
    """

    memories: Path = Path("memories")
    worker: Path = Path("worker")


@settings
class Limits:
    """Bounds that no run of the coordinator can exceed.

    Attributes:
        message_bytes: Largest request or reply.
        processes: Most processes that compute; the result does not depend on it.
        cpus: CPU cores that they may use; 0: all of the machine.
    """

    message_bytes: Annotated[int, Ge(2**16), Le(2**31 - 1)] = 2**28
    processes: Annotated[int, Gt(0), Le(256)] = 1
    cpus: Annotated[int, Ge(0), Le(4096)] = 0


@settings
class Coordinator:
    """How the site's SuperNode reaches the coordinator.

    Attributes:
        address: "host:port" of the SuperLink; "": not known yet.
        certificate: File of the authority that signed the SuperLink's certificate; None: no TLS,
            which is for one machine only.
        key: File of the node's private key (ECDSA, curve P-384); None: replies are not signed.
    """

    address: str = ""
    certificate: Path | None = None
    key: Path | None = None


@settings
class Site:
    """A site, as its own file describes it; all paths are absolute.

    Attributes:
        name: Lower-case letters, digits, ".", "_" and "-".
        number: Which of the federation's sites it is, from 0: it hosts the scenario's clients
            whose number, divided by ``sites``, leaves this remainder.
        sites: How many sites the federation has.
        data: Where its examples are.
        folders: Where its processes write.
        limits: Bounds on what a run may use.
        coordinator: How its SuperNode reaches the coordinator.
    """

    name: str
    number: Annotated[int, Ge(0)] = 0
    sites: Annotated[int, Gt(0), Le(MAX_SITES)] = 1
    data: Data = field(default_factory=Data)
    folders: Folders = field(default_factory=Folders)
    limits: Limits = field(default_factory=Limits)
    coordinator: Coordinator = field(default_factory=Coordinator)

    @property
    def socket(self) -> Path:
        """The Unix socket on which the worker answers."""
        return self.folders.worker / _SOCKET

    @property
    def lock(self) -> Path:
        """The file that the serving worker holds locked."""
        return self.folders.worker / _LOCK

    @property
    def log(self) -> Path:
        """What the worker says, if the site's app started it."""
        return self.folders.worker / _LOG


def is_name(text: str) -> bool:
    """Return whether a site may be called so."""
    return bool(_NAME.fullmatch(text)) and len(text) <= MAX_NAME


def read_site_file(path: str | Path) -> Site:
    """Read and check a site's own file; no file that it names is opened.

    Args:
        path: Of the file.

    Raises:
        ConfigurationError: If it is missing, is not TOML, or holds an unknown or wrong entry; names
            the file, the key, the value and what is allowed.
    """
    file = Path(path).expanduser().absolute()
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the site's file {file}: {error.strerror}; `fedmaml site init` writes one"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}") from error
    try:
        site: Site = TypeAdapter(Site).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        given = "is missing" if first["type"] == "missing" else f"= {first['input']!r}"
        raise ConfigurationError(f"{file}: {key} {given}: {first['msg']}") from error
    site = _with_absolute_paths(site, file.parent)
    for wrong in (_wrong_name(site), _wrong_data(site.data), _wrong_socket(site)):
        if wrong:
            raise ConfigurationError(f"{file}: {wrong}")
    return site


def write_site_file(path: str | Path, site: Site) -> None:
    """Write a site's own file, for its owner alone; an existing one is replaced as a whole.

    Args:
        path: Of the file.
        site: What it says; paths below its folder are written relative to it, defaults are
            written, too.
    """
    file = Path(path).expanduser().absolute()
    text = tomli_w.dumps(_plain(dataclasses.asdict(site), file.parent))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.encode(), private=True)


def _with_absolute_paths(part: Any, base: Path) -> Any:
    """Return settings whose paths, at any depth, start at the root of the file system."""
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(part):
        value = getattr(part, item.name)
        if isinstance(value, Path):
            changed[item.name] = base / value.expanduser()
        elif dataclasses.is_dataclass(value):
            changed[item.name] = _with_absolute_paths(value, base)
    return dataclasses.replace(part, **changed)


def _plain(table: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return values that TOML holds: paths as text, what is not given left out."""
    plain: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            if inner := _plain(value, base):
                plain[key] = inner
        elif isinstance(value, Path):
            inside = value.is_absolute() and value.is_relative_to(base)
            plain[key] = str(value.relative_to(base) if inside else value)
        elif value is not None and value != "":
            plain[key] = value
    return plain


def _wrong_name(site: Site) -> str:
    if not is_name(site.name):
        return (
            f"name = {site.name!r}: a name has at most {MAX_NAME} lower-case letters, digits, "
            '".", "_" and "-", and begins and ends with a letter or digit'
        )
    if site.number >= site.sites:
        return (
            f"number = {site.number} of sites = {site.sites}: sites are counted from 0, so the "
            f"last one has the number {site.sites - 1}; ask the coordinator for both"
        )
    return ""


def _wrong_data(data: Data) -> str:
    given = [name for name in ("folder", "table", "module") if getattr(data, name)]
    if len(given) > 1:
        return f"[data] names {' and '.join(given)}: keep one of them"
    if data.table and not data.target:
        return 'data.table needs data.target: write target = "COLUMN", the column to predict'
    if data.target and data.folder:
        return "data.target has no effect with data.folder: remove it"
    if data.module and not _MODULE.fullmatch(data.module):
        return (
            f"data.module = {data.module!r}: write package.module:function, the function of an "
            "installed package"
        )
    return ""


def _wrong_socket(site: Site) -> str:
    if len(os.fsencode(site.socket)) > _SOCKET_BYTES:
        return (
            f"folders.worker = {str(site.folders.worker)!r}: the path of the socket in it is "
            f"longer than the {_SOCKET_BYTES} bytes that the system allows; name a folder with a "
            "shorter path, e.g. /run/fedmaml"
        )
    return ""
