"""Back ends: how messages travel. Each runs the same two apps, which are given by name.

A new back end is a file here, named as in `BACKENDS` with ``_`` for ``-``, that has a function
``run(apps, run_config, nodes)``, and a line in `BACKENDS`.
"""

from typing import NamedTuple


class Backend(NamedTuple):
    """Description of a back end.

    Attributes:
        about: One line for ``fedmaml list``.
        not_estimated: Time that an estimate does not include; "": none.
    """

    about: str
    not_estimated: str = ""


BACKENDS = {
    "in-process": Backend("all clients in this process, vectorised (default)"),
    "flower-simulation": Backend(
        "Flower's simulation engine on Ray; needs the extra ray",
        "computation in one process only: the start of Ray (5 to 10 s) and its messages are not "
        "included, nor that several processes compute at a time",
    ),
    "flower-deployment": Backend(
        "a SuperLink and SuperNodes as processes on this machine",
        "computation in one process only: a deployment takes some seconds for every round and "
        "evaluation beside it, mostly to start a process for each message",
    ),
}
"""The back ends by name; the first is the default."""


def module_of(name: str) -> str:
    """Return the module of a back end."""
    return f"{__name__}.{name.replace('-', '_')}"
