"""Who may take part: ``approved.toml`` in the coordinator's folder, one public key for each site.

    [sites]
    cleveland = "ecdsa-sha2-nistp384 AAAA..."

    [revoked]                           # never taken again
    "ecdsa-sha2-nistp384 AAAB..." = "hungarian"

``approve`` and ``revoke`` change the file only. A SuperLink that runs takes it over within seconds
(`superlink.Enrolment`), and the ServerApp checks signatures with the keys that it held when the run
began (`server.admission`). One key speaks for one site, and one site has one key.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from fedmaml.core.errors import ConfigurationError
from fedmaml.provisioning.coordinator_file import read_coordinator
from fedmaml.provisioning.keys import fingerprint, public_line
from fedmaml.runs.writing import write_whole

FILE = "approved.toml"


@dataclass(frozen=True)
class Roster:
    """The keys that a coordinator knows.

    Attributes:
        sites: Name -> public key of the sites that may take part.
        revoked: Public key -> name of the site that had it.
    """

    sites: Mapping[str, str] = field(default_factory=dict)
    revoked: Mapping[str, str] = field(default_factory=dict)


def read_roster(folder: Path) -> Roster:
    """Read the roster of a coordinator's folder; empty if nobody was approved yet.

    Raises:
        ConfigurationError: If it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return Roster()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        sites, revoked = dict(table.get("sites", {})), dict(table.get("revoked", {}))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigurationError(
            f"{path} is damaged ({error}): put it back from a copy, or remove it and approve the "
            "sites again"
        ) from error
    return Roster({name: public_line(str(key)) for name, key in sites.items()}, revoked)


def write_roster(folder: Path, roster: Roster) -> None:
    """Write the roster, for its owner alone."""
    table = {"sites": dict(roster.sites), "revoked": dict(roster.revoked)}
    write_whole(folder / FILE, tomli_w.dumps(table).encode(), private=True)


def approve(folder: Path, name: str, text: str, expected: str = "") -> str:
    """Let a site take part.

    Args:
        folder: Of the coordinator.
        name: Of the site.
        text: Its public key.
        expected: The fingerprint that the site's administrator said; "": not asked for.

    Returns:
        The fingerprint.

    Raises:
        ConfigurationError: If the key is another site's, the site has another key, is not one of
            the federation, or the fingerprints differ.
    """
    key = public_line(text)
    found, roster = fingerprint(key), read_roster(folder)
    sites = read_coordinator(folder).sites
    if name not in sites:
        raise ConfigurationError(
            f"{name!r} is no site of this federation; known: {', '.join(sites)} (sites in "
            f"{folder / 'coordinator.toml'})"
        )
    if expected and expected != found:
        raise ConfigurationError(
            f"the key has the fingerprint {found}, not {expected}: it is not the one that the "
            "site made; get node.key.pub again, and find out who changed it"
        )
    if key in roster.revoked:
        raise ConfigurationError(
            f"the key {found} was revoked, and stays so: site {name} makes a new one with "
            "`fedmaml site init` in another folder"
        )
    if owner := next((other for other, own in roster.sites.items() if own == key), ""):
        if owner != name:
            raise ConfigurationError(
                f"this key is that of site {owner} already, and one key speaks for one site: "
                f"{name} makes its own with `fedmaml site init`"
            )
        return found
    if name in roster.sites:
        raise ConfigurationError(
            f"site {name} has another key already ({fingerprint(roster.sites[name])}): if it made "
            f"a new one, withdraw the old one first: fedmaml site revoke {folder} {name}"
        )
    write_roster(folder, Roster({**roster.sites, name: key}, roster.revoked))
    return found


def revoke(folder: Path, name: str) -> str:
    """Let a site take part no more; return the fingerprint of its key.

    Raises:
        ConfigurationError: If it was not approved.
    """
    roster = read_roster(folder)
    if name not in roster.sites:
        known = ", ".join(roster.sites) or "none"
        raise ConfigurationError(f"{name!r} is not approved; approved: {known}")
    key = roster.sites[name]
    others = {other: own for other, own in roster.sites.items() if other != name}
    write_roster(folder, Roster(others, {**roster.revoked, key: name}))
    return fingerprint(key)
