"""``fedmaml site doctor``: everything that can keep a site from taking part, each with its fix."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from fedmaml.core.errors import ConfigurationError
from fedmaml.provisioning.connecting import STEPS, connect
from fedmaml.provisioning.coordinator_file import is_private
from fedmaml.provisioning.findings import Finding, bad, good, unknown
from fedmaml.provisioning.keys import fingerprint, public_line, public_path
from fedmaml.provisioning.own_data import look_at_data
from fedmaml.sites.site_file import Site, read_site_file
from fedmaml.sites.starting import channel_to, serves

MIN_PYTHON = (3, 11)
PACKAGE = "fedmaml"


@dataclass(frozen=True)
class Machine:
    """What the doctor takes for granted; a test gives another one.

    Attributes:
        python: Version.
        free_bytes: Least free space that a site needs, for memories, logs and Flower's store.
    """

    python: tuple[int, int] = sys.version_info[:2]
    free_bytes: int = 2**30


def examine(file: Path, machine: Machine | None = None) -> list[Finding]:
    """Look at everything; return the findings in the order in which to mend them.

    Args:
        file: The site's own file.
        machine: What is taken for granted.
    """
    machine = machine or Machine()
    found = [_python(machine.python), _packages()]
    try:
        site = read_site_file(file)
    except ConfigurationError as error:
        return [*found, bad("site file", str(error), "correct it; the others need it")]
    found += [good("site file", f"{file}: site {site.name}, number {site.number} of {site.sites}")]
    found += [_key(site), _disk(site, machine.free_bytes), *look_at_data(site.data)]
    found += [_worker(site, file), *_way(site)]
    return found


def _python(version: tuple[int, int]) -> Finding:
    name = ".".join(map(str, version))
    if version < MIN_PYTHON:
        least = ".".join(map(str, MIN_PYTHON))
        return bad("Python", f"{name}", f"install Python {least} or newer, and fedmaml with it")
    return good("Python", name)


def _packages() -> Finding:
    wrong = list(_wrong_packages())
    if wrong:
        return bad("packages", "; ".join(wrong), "pip install -U fedmaml in this environment")
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("fedmaml", "flwr", "torch")
    )
    return good("packages", versions)


def _wrong_packages() -> Iterator[str]:
    """Yield the packages that are missing or of a version that fedmaml does not take."""
    for text in metadata.requires(PACKAGE) or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version} is not {requirement.specifier}"


def _key(site: Site) -> Finding:
    path = site.coordinator.key
    if path is None:
        return bad("node key", "site.toml names none", "make the site with `fedmaml site init`")
    if not path.is_file():
        return bad("node key", f"{path} is missing", "put it back, or make the site anew: "
                   "`fedmaml site init`; the coordinator approves its new key")  # fmt: skip
    if not is_private(path):
        return bad("node key", f"others may read {path}", f"chmod 600 {path}")
    try:
        shown = fingerprint(public_line(public_path(path).read_text()))
    except (OSError, ConfigurationError) as error:
        return bad("node key", f"its public part cannot be read ({error})",
                   f"ssh-keygen -y -f {path} > {public_path(path)}")  # fmt: skip
    return good("node key", shown)


def _disk(site: Site, least: int) -> Finding:
    for folder in (site.folders.memories, site.folders.worker):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(there).free
        if free < least:
            return bad(
                "disk",
                f"{free / 1e9:.1f} GB free at {there}, {least / 1e9:.1f} are needed",
                "make room, or name another folder below [folders] in site.toml",
            )
    return good("disk", f"{free / 1e9:.1f} GB free")


def _worker(site: Site, file: Path) -> Finding:
    if not site.socket.exists():
        return unknown("worker", f"it does not run; `fedmaml site run {file.parent}` starts it")
    try:
        with channel_to(site) as channel:
            healthy = serves(channel)
    except ConfigurationError as error:
        return bad("worker", str(error), f"chmod 700 {site.folders.worker}")
    if healthy:
        return good("worker", "it answers")
    return bad("worker", "it does not answer on its socket",
               f"start the site again (fedmaml site run {file.parent}); {site.log} says why "
               "it ended, if the site's app had started it")  # fmt: skip


def _way(site: Site) -> list[Finding]:
    own = site.coordinator
    if not own.address or own.certificate is None:
        first = bad("coordinator", "site.toml does not say how to reach it",
                    "write address and certificate below [coordinator]")  # fmt: skip
        return [first, *(unknown(step, "the coordinator comes first") for step in STEPS)]
    return connect(own.address, own.certificate)
