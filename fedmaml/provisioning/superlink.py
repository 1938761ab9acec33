"""The SuperLink of a coordinator: TLS, node keys, a database that outlives it.

It listens on loopback by default, since whoever reaches its port may also submit runs and enrol
nodes (Flower's control API is on the same port and asks for nothing). The nginx before it
(`generated`) shows sites only what they need.
"""

import json
import logging
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import tomli_w

from fedmaml.core.errors import BackendError
from fedmaml.provisioning.coordinator_file import Coordinator, host_and_port
from fedmaml.provisioning.keys import fingerprint
from fedmaml.provisioning.roster import read_roster
from fedmaml.runs.writing import write_whole
from fedmaml.simulations.backends.flower_processes import (
    CONNECTION,
    START_SECONDS,
    ask,
    environment_of,
)
from fedmaml.simulations.backends.processes import Child, Workspace, wait_until

logger = logging.getLogger("fedmaml")

STATE = "superlink"
"""Folder of what Flower stores, in the coordinator's."""

_ENROLLED = "enrolled.json"
_ONLINE = "online"
_IN_USE = "already in use"
_UNKNOWN = "unregistered"


def start(space: Workspace, folder: Path, coordinator: Coordinator, **variables: str) -> Child:
    """Start the SuperLink, wait until it answers, and point ``flwr`` to it.

    Args:
        space: Where its helpers run; they end with it.
        folder: Of the coordinator.
        coordinator: What its file says.
        variables: Further environment variables, for the ServerApp, too.

    Raises:
        BackendError: If it does not answer.
    """
    state = folder.absolute() / STATE
    host, port = host_and_port(coordinator.listen)
    environment = environment_of(space, "operator")
    home = Path(environment["FLWR_HOME"])
    home.mkdir(parents=True)
    authority = str(folder.absolute() / "ca.crt")
    reached = f"{_bracketed(host)}:{port}"
    connection = {"address": reached, "root-certificates": authority}
    write_whole(
        home / "config.toml",
        tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}}).encode(),
    )
    superlink = space.start(
        "superlink",
        [
            "flower-superlink", "--host", host, "--port", str(port),
            "--ssl-ca-certfile", authority,
            "--ssl-certfile", str(folder.absolute() / "server.crt"),
            "--ssl-keyfile", str(folder.absolute() / "server.key"),
            "--enable-supernode-auth", "--database", str(state / "state.db"),
            "--log-file", str(state / "superlink.log"),
        ],
        environment | variables,
    )  # fmt: skip
    health = f"https://{reached}/health"
    wait_until(
        lambda: healthy(health, authority), [superlink], START_SECONDS, "the SuperLink to answer"
    )
    return superlink


def healthy(address: str, authority: str) -> bool:
    """Return whether a SuperLink answers at an address, with a certificate of its authority."""
    context = ssl.create_default_context(cafile=authority)
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    with suppress(URLError, OSError), opener.open(address, timeout=2.0) as answer:
        return bool(answer.status == 200)
    return False


class Enrolment:
    """Keeps the nodes that a SuperLink knows equal to the sites that were approved.

    Args:
        space: Where the SuperLink's operator commands run.
        folder: Of the coordinator.
    """

    def __init__(self, space: Workspace, folder: Path) -> None:
        self._space, self._folder = space, folder
        self._file = folder / STATE / _ENROLLED
        self._seen: Mapping[str, str] | None = None

    def take_over(self) -> None:
        """Enrol sites that were approved since, and remove those that were revoked."""
        keys = read_roster(self._folder).sites
        if keys == self._seen:
            return
        known, listed = self._enrolled(), self._listed()
        known = {key: node for key, node in known.items() if node in listed}  # a new database
        for key in [key for key in known if key not in keys.values()]:
            self._asked("supernode", "unregister", known.pop(key), CONNECTION)
            self._note(known)
            logger.warning("the site with key %s was revoked", fingerprint(key))
        for name, key in keys.items():
            if key not in known:
                known[key] = self._registered(name, key, set(known.values()))
                self._note(known)
                logger.warning("site %s may connect (%s)", name, fingerprint(key))
        self._seen = keys

    def online(self) -> list[str]:
        """Return the names of the sites that are connected now."""
        known, listed = self._enrolled(), self._listed()
        sites = read_roster(self._folder).sites.items()
        return [name for name, key in sites if listed.get(known.get(key, "")) == _ONLINE]

    def _registered(self, name: str, key: str, known: set[str]) -> str:
        """Register a node; return its id.

        A command that was killed between Flower's answer and its own note left a node that nobody
        knows: that one is taken.
        """
        path = self._space.folder / f"{name}.pub"
        path.write_text(f"{key} {name}\n")
        arguments = "supernode", "register", str(path), CONNECTION, "--name", name
        answer = ask(self._space, *arguments)
        if answer.get("success"):
            return str(answer["node-id"])
        orphans = self._listed().keys() - known
        if _IN_USE in str(answer.get("error-message")) and len(orphans) == 1:
            return orphans.pop()
        raise BackendError(
            f"site {name} cannot be enrolled: {answer.get('error-message')}; if this stays so, end "
            f"the run, remove {self._file.parent / 'state.db'} and start it again: all sites are "
            "then enrolled anew"
        )

    def _note(self, known: Mapping[str, str]) -> None:
        write_whole(self._file, json.dumps(known).encode(), private=True)

    def _enrolled(self) -> dict[str, str]:
        """Return public key -> node id."""
        return dict(json.loads(self._file.read_text())) if self._file.exists() else {}

    def _listed(self) -> dict[str, str]:
        """Return node id -> status, of the nodes that are registered."""
        answer = self._asked("supernode", "list", CONNECTION)
        nodes = {node["node-id"]: node["status"] for node in answer["nodes"]}
        return {node: status for node, status in nodes.items() if status != _UNKNOWN}

    def _asked(self, *arguments: str) -> dict[str, Any]:
        answer = ask(self._space, *arguments)
        if not answer.get("success"):
            raise BackendError(
                f"flwr {' '.join(arguments[:2])} failed: {answer.get('error-message')}; the log of "
                f"the SuperLink says more: {self._file.with_name('superlink.log')}"
            )
        return answer


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
