"""Signatures of replies: a site signs with its node key what it answers, the coordinator verifies.

    signature = ECDSA-P384-SHA384 over (run, request, round, site, base, SHA-256 of the body)

The key is that of the site's SuperNode. Flower's own authentication signs a time, not what is sent;
this one binds a body to one request of one run. So a reply of another run, round or site, one that
answered another request, and one whose body was changed under way are refused, each with its
reason. Each request is answered once (`server.replies.matched`), and a site is asked once in a
step, so a reply cannot count twice.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from flwr.app import ConfigRecord, RecordDict

from fedmaml.core.errors import ConfigurationError, MessageError
from fedmaml.messages.checks import REPLY, SEAL, SIGNATURE, SIGNED_FOR, shown

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

_ALGORITHM = ec.ECDSA(hashes.SHA384())
_CURVE = ec.SECP384R1.name
_MAX_SIGNATURE = 256  # bytes; one of P-384 has at most 104


@dataclass(frozen=True)
class Occasion:
    """To what a reply belongs.

    Attributes:
        run: Flower's number of the run.
        request: Flower's id of the request.
        site: Name of the site that answers.
    """

    run: int
    request: str
    site: str


def sign(content: RecordDict, key: PrivateKey, occasion: Occasion) -> None:
    """Put the signature into a sealed reply.

    Args:
        content: As `messages.checks.seal` left it.
        key: Of the site's node.
        occasion: To what it belongs.
    """
    reply = _reply(content)
    said = {"run": str(occasion.run), "request": occasion.request, "site": occasion.site}
    reply.update({SIGNED_FOR[name]: value for name, value in said.items()})
    reply[SIGNATURE] = key.sign(_text(said, reply), _ALGORITHM)


def check_signature(content: RecordDict, key: PublicKey, occasion: Occasion) -> None:
    """Refuse a reply that the site did not sign for this request.

    Round, base and body are compared with the request by those who read the reply
    (`messages.checks`); the signature covers what the reply says of them.

    Args:
        content: As it came.
        key: That the coordinator approved for the site.
        occasion: To what it must belong.

    Raises:
        MessageError: "SIGNATURE", or "STALE" for a sound reply to another request or run.
    """
    reply = _reply(content)
    signature = reply.get(SIGNATURE)
    said = {name: str(reply.get(entry, "")) for name, entry in SIGNED_FOR.items()}
    if not isinstance(signature, bytes) or len(signature) > _MAX_SIGNATURE or SEAL not in reply:
        raise MessageError("SIGNATURE", f"the reply of site {occasion.site} is not signed")
    if said["site"] != occasion.site:
        raise MessageError(
            "SIGNATURE",
            f"the reply is signed as site {shown([said['site']])}, asked was {occasion.site}",
        )
    try:
        key.verify(signature, _text(said, reply), _ALGORITHM)
    except (InvalidSignature, ValueError) as error:
        raise MessageError(
            "SIGNATURE",
            f"the reply is not signed with the key that was approved for site {occasion.site}",
        ) from error
    if said["run"] != str(occasion.run):
        raise MessageError(
            "STALE", f"signed for run {shown([said['run']])}, this is run {occasion.run}"
        )
    if said["request"] != occasion.request:
        raise MessageError("STALE", "signed as the answer to another request: a replay")


def private_key(path: Path) -> PrivateKey:
    """Read a node's private key, as ``ssh-keygen -t ecdsa -b 384`` or OpenSSL writes it.

    Raises:
        ConfigurationError: If there is none, others may read it, or it is of another kind.
    """
    cure = "`fedmaml site init` makes one"
    try:
        data = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the node key {path}: {error.strerror}; {cure}"
        ) from error
    if mode & 0o077:
        raise ConfigurationError(f"other users may read the node key: chmod 600 {path}")
    load: Any = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        key = load(data, None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{path} holds no private key without a password ({type(error).__name__}); {cure}"
        ) from error
    if not isinstance(key, PrivateKey) or key.curve.name != _CURVE:
        raise ConfigurationError(f"the key in {path} is not ECDSA on the curve P-384; {cure}")
    return key


def public_key(text: str) -> PublicKey:
    """Read a public key, "ecdsa-sha2-nistp384 AAAA..." or PEM.

    Raises:
        ConfigurationError: If it is anything else.
    """
    data = text.strip().encode()
    load: Any = load_pem_public_key if data.startswith(b"-----") else load_ssh_public_key
    try:
        key = load(data)
    except Exception as error:  # cryptography has many
        raise ConfigurationError(
            f"{text[:30]!r} is no public key: give the content of the site's .pub file, "
            "'ecdsa-sha2-nistp384 AAAA...'"
        ) from error
    if not isinstance(key, PublicKey) or key.curve.name != _CURVE:
        raise ConfigurationError(
            f"the public key {text[:30]!r} is not ECDSA on the curve P-384: `fedmaml site init` "
            "makes one that is"
        )
    return key


def _reply(content: RecordDict) -> ConfigRecord:
    reply = content.get(REPLY)
    if not isinstance(reply, ConfigRecord):
        raise MessageError("KEYS", f"record {REPLY!r} is missing")
    return reply


def _text(said: Mapping[str, str], reply: ConfigRecord) -> bytes:
    """Return what is signed."""
    bound = {
        **said,
        "round": str(reply.get("round", "")),  # of a roll call: none
        "base": str(reply.get("base", "")),
        "sha256": str(reply[SEAL]),
    }
    return b"fedmaml reply\0" + json.dumps(bound, sort_keys=True).encode()
