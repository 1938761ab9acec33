"""Node keys, in the format that Flower's SuperNode reads: ECDSA on P-384, as OpenSSH writes it.

The private key is made at the site and stays there. The public one is a line of text, which the
coordinator approves after both sides have compared its fingerprint by telephone.
"""

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedmaml.core.errors import ConfigurationError
from fedmaml.runs.writing import write_whole

KIND = "ecdsa-sha2-nistp384"


def make_node_key(path: Path, name: str) -> str:
    """Write a new private key that only its owner may read, and the public one beside it.

    Args:
        path: Of the private key; the public one is ``path`` with ``.pub`` appended.
        name: Of the site; a comment in the public key.

    Returns:
        The fingerprint of the public key.

    Raises:
        ConfigurationError: If there is a key already, which is never replaced.
    """
    if path.exists():
        raise ConfigurationError(
            f"{path} holds a node key already, which is never replaced: the coordinator knows the "
            "site by it; choose another folder, or remove the key if the site is to be new"
        )
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    line = f"{public.decode()} {name}\n"
    write_whole(path, private, private=True)
    write_whole(public_path(path), line.encode())
    return fingerprint(line)


def public_path(path: Path) -> Path:
    """Return where the public part of a private key lies."""
    return path.with_name(f"{path.name}.pub")


def public_line(text: str) -> str:
    """Return a public key without its comment, e.g. from a file that a site sent.

    Raises:
        ConfigurationError: If it is not a key that Flower takes; a private key is refused by name.
    """
    if "PRIVATE KEY" in text:
        raise ConfigurationError(
            "this is a private key, which must never leave its site: ask for the file that ends "
            "with .pub, and let the site make a new key"
        )
    words = text.split()
    line = " ".join(words[:2])
    try:
        if words[:1] != [KIND]:
            raise ValueError(f"it begins with {words[0] if words else 'nothing'}")
        serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"not a node key ({error}): it is one line that begins with {KIND}, as `fedmaml site "
            "init` writes it to node.key.pub"
        ) from error
    return line


def fingerprint(line: str) -> str:
    """Return the fingerprint of a public key, as ``ssh-keygen -lf`` prints it."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
