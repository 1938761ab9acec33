"""The folder of a site: its node key, the authority that it trusts, and its own file."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from fedmaml.core.errors import ConfigurationError
from fedmaml.provisioning.coordinator_file import host_and_port
from fedmaml.provisioning.keys import make_node_key
from fedmaml.sites.site_file import Coordinator, Data, Site, read_site_file, write_site_file

FILE = "site.toml"


@dataclass(frozen=True)
class Invitation:
    """What the coordinator tells a site.

    Attributes:
        name: Of the site.
        number: Of the site, from 0.
        sites: Number of all sites.
        address: "host:port" of the coordinator.
    """

    name: str
    number: int
    sites: int
    address: str


def make_site(
    folder: Path, invitation: Invitation, authority: Path, data: str = "", target: str = ""
) -> str:
    """Make a site's folder and return the fingerprint of its key.

    Args:
        folder: Is made, for its owner alone.
        invitation: What the coordinator sent to the site.
        authority: Certificate of the coordinator's authority; is copied.
        data: A table, a folder of data sets, "package.module:function", or "".
        target: Column of the table to predict.

    Raises:
        ConfigurationError: If the folder holds a site already, or something given is wrong.
    """
    file = folder / FILE
    if file.exists():
        raise ConfigurationError(f"{file} exists already: change it, or choose another folder")
    host_and_port(invitation.address)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    key, certificate = folder.absolute() / "node.key", folder.absolute() / "ca.crt"
    site = Site(
        name=invitation.name,
        number=invitation.number,
        sites=invitation.sites,
        data=_data(data, target),
        coordinator=Coordinator(invitation.address, certificate, key),
    )
    write_site_file(file, site)
    try:
        read_site_file(file)
        found = make_node_key(key, invitation.name)
    except ConfigurationError:
        file.unlink()
        raise
    shutil.copyfile(authority, certificate)
    return found


def _data(data: str, target: str) -> Data:
    path = Path(data).expanduser().absolute()
    if not data:
        return Data(target=target)
    if path.is_dir():
        return Data(folder=path, target=target)
    if ":" in data and not path.exists():
        return Data(module=data, target=target)
    return Data(table=path, target=target)
