"""The coordinator's own certificate authority, and the certificate of its server.

A site trusts this authority alone, by the file that the coordinator gives it; so no other
authority of the world can vouch for a false coordinator.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmaml.core.errors import ConfigurationError
from fedmaml.runs.writing import write_whole

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
"""Longer-lived certificates of servers are refused by some clients."""
LOOPBACK = ("localhost", "127.0.0.1")
"""The SuperLink's own processes, and a proxy before it, reach it so."""

_BACKDATED = timedelta(minutes=5)  # a site's clock may be behind


def make_authority(certificate: Path, key: Path, name: str, days: int = AUTHORITY_DAYS) -> None:
    """Write a new certificate authority: its certificate, and its key for the owner only."""
    private = ec.generate_private_key(ec.SECP384R1())
    subject = _name(name)
    usage = _usage(key_cert_sign=True, crl_sign=True)
    made = (
        _builder(subject, subject, private.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(private, hashes.SHA384())
    )
    _write(certificate, key, made, private)


def make_server_certificate(
    certificate: Path,
    key: Path,
    authority: tuple[Path, Path],
    names: Sequence[str],
    days: int = SERVER_DAYS,
    begin: datetime | None = None,
) -> None:
    """Write a certificate for the names and addresses of a server, and its key.

    Args:
        certificate: File to write.
        key: File to write; its owner alone may read it.
        authority: Certificate and key of the authority.
        names: Host names and IP addresses by which clients reach the server.
        days: For how long it is valid.
        begin: From when it is valid; None: from now.

    Raises:
        ConfigurationError: If the authority's key cannot be read.
    """
    issuer, signer = _authority(*authority)
    private = ec.generate_private_key(ec.SECP384R1())
    alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    made = (
        _builder(_name(names[0]), issuer.subject, private.public_key(), days, begin)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(alternatives, critical=False)
        .sign(signer, hashes.SHA384())
    )
    _write(certificate, key, made, private)


def names_of(certificate: Path) -> list[str]:
    """Return the names and addresses for which a certificate of a server was made."""
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    found = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(each.value) for each in found]


def certificate_fingerprint(certificate: Path) -> str:
    """Return the SHA-256 of a certificate, as ``openssl x509 -fingerprint -sha256`` prints it."""
    digest = x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256())
    return digest.hex(":").upper()


def _authority(certificate: Path, key: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        issuer = x509.load_pem_x509_certificate(certificate.read_bytes())
        signer = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot sign with {key}: {error}; put the authority's key back from where it is kept"
        ) from error
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    return issuer, signer


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    days: int,
    begin: datetime | None = None,
) -> x509.CertificateBuilder:
    start = begin or datetime.now(UTC) - _BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(**allowed: bool) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in every})


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(
    certificate: Path, key: Path, made: x509.Certificate, private: ec.EllipticCurvePrivateKey
) -> None:
    text = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_whole(key, text, private=True)
    write_whole(certificate, made.public_bytes(serialization.Encoding.PEM))
