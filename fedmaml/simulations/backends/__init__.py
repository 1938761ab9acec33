"""Back ends: how messages travel. Each runs the same two apps, which are given by name.

A new back end is a file here, named as in `BACKENDS` with ``_`` for ``-``, that has a function
``run(apps, run_config, nodes)``, and a line in `BACKENDS`.
"""

import importlib.util
from typing import NamedTuple

from fedmaml.core.errors import BackendError


class Backend(NamedTuple):
    """Description of a back end.

    Attributes:
        about: One line for ``fedmaml list``.
        not_estimated: Time that an estimate does not include; "": none.
        package: What it needs beside fedmaml, the extra of the same name; "": nothing.
    """

    about: str
    not_estimated: str = ""
    package: str = ""


BACKENDS = {
    "in-process": Backend("all clients in this process, vectorised (default)"),
    "flower-simulation": Backend(
        "Flower's simulation engine on Ray; needs the extra ray",
        "computation in one process only: the start of Ray (5 to 10 s) and its messages are not "
        "included, nor that several processes compute at a time",
        "ray",
    ),
    "flower-deployment": Backend(
        "a SuperLink and SuperNodes as processes on this machine",
        "computation in one process only: a deployment takes some seconds for every round and "
        "evaluation beside it, mostly to start a process for each message",
    ),
}
"""The back ends by name; the first is the default."""

MEMORIES = "FEDMAML_MEMORIES"
"""Environment variable of nodes: the folder where they keep the memories of their clients.

An entry of the ``node_config`` with this name goes before it.
"""

SITE_FILE = "site-file"
"""Entry in the ``node_config`` of a real site: the path of its own file (`fedmaml.sites`)."""

IN_JOURNAL = "journal"
"""Entry in the ``node_config`` of nodes whose memories the server keeps in its journal."""


def module_of(name: str) -> str:
    """Return the module of a back end."""
    return f"{__name__}.{name.replace('-', '_')}"


def refuse_without_package(name: str) -> None:
    """Refuse a back end whose package is not installed, before anything is written.

    Raises:
        BackendError: Says how to get it.
    """
    package = BACKENDS[name].package
    if package and importlib.util.find_spec(package) is None:
        raise BackendError(
            f"back end {name!r} needs {package}, which is not installed: pip install "
            f"'fedmaml[{package}]', or use the in-process back end, which does not need it"
        )
