"""A federation of real sites in this process: their files, their apps, and a server's Grid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fedmaml.simulations.backends import SITE_FILE
from fedmaml.simulations.backends.in_process import InProcessGrid
from fedmaml.sites.app import app as site_app
from fedmaml.sites.site_file import Coordinator, Data, Folders, Site, write_site_file

SMALL = {
    "scenario": "sinusoid", "strategy": "fedrep", "rounds": 2, "clients": 0, "client_batch": 1,
    "compression.method": "top-k", "task.train_clients": 4, "task.test_clients": 2,
}  # fmt: skip
"""A run whose clients keep memories."""


def new_key(path: Path) -> str:
    """Write a node key as Flower takes it; return the public one as text."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def new_site(
    folder: Path, number: int = 0, sites: int = 1, data: Data | None = None, key: bool = False
) -> Path:
    """Write the file of a site; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "site.toml"
    site = Site(
        name=f"site-{number}",
        number=number,
        sites=sites,
        data=data or Data(),
        folders=Folders(memories=folder / "memories", worker=folder / "w"),
        coordinator=Coordinator(key=folder / "node.key" if key else None),
    )
    write_site_file(path, site)
    return path


def grid_of(site_files: list[Path], run_config: Mapping[str, Any]) -> InProcessGrid:
    """Return a Grid whose nodes are real sites."""
    grid = InProcessGrid(site_app, len(site_files), run_config)
    for context, path in zip(grid._contexts.values(), site_files, strict=True):
        context.node_config = {SITE_FILE: str(path)}
    return grid
