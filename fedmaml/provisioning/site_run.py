"""A site at work: its worker, which alone reads the data, and the SuperNode before it.

Both are supervised: one that ends is started again. Before the first start the way to the
coordinator is looked at; what only the site or the coordinator can change (a wrong certificate)
ends the command with cause and cure, what passes by itself (nobody listens yet) is waited for.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from fedmaml.core.errors import BackendError, ConfigurationError
from fedmaml.provisioning.connecting import connect, first_failure
from fedmaml.provisioning.coordinator_file import is_private
from fedmaml.provisioning.findings import Finding
from fedmaml.provisioning.supervising import Service, supervise
from fedmaml.simulations.backends import SITE_FILE
from fedmaml.simulations.backends.flower_processes import environment_of
from fedmaml.simulations.backends.processes import Child, Workspace, free_ports, workspace
from fedmaml.sites.site_file import Site, read_site_file
from fedmaml.sites.starting import made_private, worker_command

_NOT_ADMITTED = b"Exit Code: 305"
"""In the log of a SuperNode that the SuperLink does not take."""
_TAIL_BYTES = 4096
WAITED_FOR = ("name", "proxy", "port", "answer")
"""Steps whose failure may pass by itself."""


def run_site(file: Path, say: Callable[[str], None], stop: threading.Event) -> None:
    """Run a site until ``stop`` is set.

    Args:
        file: The site's own file.
        say: Takes a line for the log.
        stop: Set by whoever wants the site to end.

    Raises:
        ConfigurationError: If the file lacks something that is needed to connect.
        BackendError: If the coordinator cannot be trusted, or this site's clock is wrong.
    """
    site = read_site_file(file)
    key, certificate = _needed(site, file)

    def hindrance() -> str:
        failure = first_failure(connect(site.coordinator.address, certificate))
        return failure.line() if failure else ""

    refuse_distrusted(connect(site.coordinator.address, certificate))
    made_private(site.folders.worker)
    with workspace(site.folders.worker) as space:
        say(f"site {site.name} runs; what its processes say is in {space.folder / 'logs'}")
        services = [_worker(space, file), _supernode(space, file, site, key, hindrance)]
        supervise(space, services, stop, say)


def refuse_distrusted(found: Sequence[Finding]) -> None:
    """Refuse a coordinator that cannot be trusted, or a clock that makes it look so.

    Raises:
        BackendError: Names cause and cure in one line.
    """
    failure = first_failure(found)
    if failure is not None and failure.check not in WAITED_FOR:
        raise BackendError(failure.line())


def _needed(site: Site, file: Path) -> tuple[Path, Path]:
    """Return the node's key and the authority's certificate.

    Raises:
        ConfigurationError: If one is missing, or others may read the key.
    """
    own = site.coordinator
    if not own.address or own.certificate is None or own.key is None:
        raise ConfigurationError(
            f"{file} does not say how to reach the coordinator: write address, certificate and key "
            "below [coordinator], as `fedmaml site init` does"
        )
    for path in (own.key, own.certificate):
        if not path.is_file():
            raise ConfigurationError(f"{path} is missing; {file} names it below [coordinator]")
    if not is_private(own.key):
        raise ConfigurationError(f"others may read {own.key}: chmod 600 {own.key}")
    return own.key, own.certificate


def _worker(space: Workspace, file: Path) -> Service:
    command = worker_command(file.absolute())
    return Service("worker", lambda: command, environment_of(space, "worker"))


def _supernode(
    space: Workspace, file: Path, site: Site, key: Path, hindrance: Callable[[], str]
) -> Service:
    def command() -> list[str]:
        (port,) = free_ports(1)  # of its own processes; another one each time
        return [
            "flower-supernode", "--superlink", site.coordinator.address,
            "--root-certificates", str(site.coordinator.certificate),
            "--auth-supernode-private-key", str(key),
            "--port", str(port),
            "--node-config", f'{SITE_FILE}="{file.absolute()}"',
        ]  # fmt: skip

    return Service("supernode", command, environment_of(space, "supernode"), _why, hindrance)


def _why(supernode: Child) -> str:
    """Return what the log of a SuperNode that ended means."""
    if _NOT_ADMITTED not in supernode.log.read_bytes()[-_TAIL_BYTES:]:
        return ""
    return (
        "the coordinator does not take it: it was not approved (fedmaml site approve), it was "
        "revoked, or its last connection still counts, for at most 60 s"
    )
