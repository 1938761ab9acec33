"""Whether a site reaches its coordinator: name, proxy, port, TLS, answer, clock.

Every step needs the one before it, so the first that fails is the cause, and the others are not
looked at. The whole takes at most `SECONDS`.
"""

import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from fedmaml.provisioning.coordinator_file import host_and_port
from fedmaml.provisioning.findings import Finding, bad, good, unknown

SECONDS = 4.0
MAX_CLOCK_SECONDS = 120.0
"""Flower refuses a node whose clock is off by about five minutes; certificates by less."""
STEPS = ("name", "proxy", "port", "TLS", "answer", "clock")

_EXPIRED, _NOT_YET_VALID = 10, 9
_WRONG_NAME, _WRONG_ADDRESS = 62, 64
_PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL")
_OLD = (
    "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE",
    "TLSV1_ALERT_INSUFFICIENT_SECURITY", "WRONG_SSL_VERSION",
)  # fmt: skip


class _FailedError(Exception):
    """A step that failed; holds its finding."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.line())
        self.finding = finding


def connect(address: str, certificate: Path) -> list[Finding]:
    """Look at every step from a site to its coordinator.

    Args:
        address: "host:port" of the coordinator.
        certificate: File of the authority that signed the coordinator's certificate.

    Returns:
        A finding for each of `STEPS`, in their order.
    """
    found: list[Finding] = []
    try:
        for finding in _steps(*host_and_port(address), certificate):
            found.append(finding)  # noqa: PERF402 what was found before a failure stays
    except _FailedError as failure:
        found.append(failure.finding)
    missing = STEPS[len(found) :]
    return found + [unknown(step, f"{found[-1].check} comes first") for step in missing]


def first_failure(found: Sequence[Finding]) -> Finding | None:
    """Return the cause, if a step failed."""
    return next((finding for finding in found if finding.passed is False), None)


def _steps(host: str, port: int, certificate: Path) -> Iterator[Finding]:
    deadline = time.monotonic() + SECONDS

    def left() -> float:
        return max(deadline - time.monotonic(), 0.2)

    proxy = _proxy(host)
    if proxy is None:
        yield _resolved(host)
        yield good("proxy", f"none for {host}")
        connection = _connected(host, port, left())
    else:
        yield unknown("name", "the proxy resolves it")
        connection = _through(proxy, host, port, left())
        yield good("proxy", f"{_shown(proxy)} leads to {host}:{port}")
    with closing(connection):
        yield good("port", f"{host}:{port} accepts connections")
        connection.settimeout(left())
        with closing(_encrypted(connection, host, certificate)) as encrypted:
            yield good("TLS", f"{encrypted.version()}, {_lasts(encrypted)}")
            encrypted.settimeout(left())
            date = _answer(encrypted, host, port)
            yield good("answer", "the coordinator answers")
            yield _clock(date)


def _resolved(host: str) -> Finding:
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise _FailedError(
            bad("name", f"{host} has no address ({error.strerror or error})",
                "correct coordinator.address in site.toml, or ask the network's administrator to "
                "let this machine resolve the name")
        ) from error  # fmt: skip
    return good("name", f"{host} is {found[0][4][0]}")


def _connected(host: str, port: int, seconds: float) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=seconds)
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        cure = (
            "the coordinator is not running, or the port is another one: ask the coordinator"
            if isinstance(error, ConnectionRefusedError)
            else f"a firewall is between: ask for outgoing TCP to {host}:{port}"
        )
        raise _FailedError(bad("port", f"{host}:{port} cannot be reached ({why})", cure)) from error


def _proxy(host: str) -> str | None:
    """Return the proxy that Flower would use for a host; None: it connects directly."""
    if proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get("https") or proxies.get("all")


def _through(proxy: str, host: str, port: int, seconds: float) -> socket.socket:
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    tunnel = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=seconds)
    headers = {}
    if parts.username:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {b64encode(secret).decode()}"
    tunnel.set_tunnel(host, port, headers)
    try:
        tunnel.connect()
    except (OSError, HTTPException) as error:
        raise _FailedError(
            bad("proxy", f"HTTPS_PROXY={_shown(proxy)} does not lead to {host}:{port} ({error})",
                f"ask for the permission at the proxy; or set NO_PROXY={host} if this machine may "
                "connect directly")
        ) from error  # fmt: skip
    return tunnel.sock


def _shown(proxy: str) -> str:
    """Return a proxy without the password in it."""
    return proxy.rpartition("@")[2].rpartition("//")[2]


def _encrypted(connection: socket.socket, host: str, certificate: Path) -> ssl.SSLSocket:
    try:
        context = ssl.create_default_context(cafile=str(certificate))
    except (OSError, ssl.SSLError) as error:
        raise _FailedError(
            bad("TLS", f"{certificate} cannot be read as a certificate ({error})",
                "get ca.crt from the coordinator again, and name it as coordinator.certificate in "
                "site.toml")
        ) from error  # fmt: skip
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise _FailedError(bad("TLS", *_refused(error, host, certificate))) from error
    except OSError as error:  # SSLError is one
        raise _FailedError(bad("TLS", *_broken(error, host))) from error


def _refused(error: ssl.SSLCertVerificationError, host: str, certificate: Path) -> tuple[str, str]:
    """Return what is wrong with a certificate, and the cure."""
    renew = "the coordinator renews it: fedmaml coordinator renew DIR"
    if error.verify_code == _EXPIRED:
        return (
            "the coordinator's certificate has expired",
            f"{renew}; if it is new, this machine's clock is wrong",
        )
    if error.verify_code == _NOT_YET_VALID:
        return (
            "the coordinator's certificate is not yet valid",
            "set this machine's clock (timedatectl); if it is right, the coordinator's is wrong: "
            + renew.removeprefix("the coordinator renews it: "),
        )
    if error.verify_code in (_WRONG_NAME, _WRONG_ADDRESS):
        return (
            f"the coordinator's certificate is not for {host}",
            "write the name that the coordinator gave as coordinator.address in site.toml; or it "
            f"makes one for {host}: fedmaml coordinator renew DIR --also {host}",
        )
    return (
        f"another authority than that of {certificate.name} signed the coordinator's certificate",
        "get ca.crt from the coordinator again and compare its fingerprint by telephone; if a "
        "firewall opens TLS, ask for an exception: nobody may read between",
    )


def _broken(error: OSError, host: str) -> tuple[str, str]:
    """Return what is wrong with a handshake, and the cure."""
    reason = getattr(error, "reason", None) or ""
    if reason in _PLAIN:
        return (
            f"{host} answers in plain text, without TLS",
            "correct the port in coordinator.address; if it is right, the coordinator runs its "
            "SuperLink without certificates",
        )
    if reason in _OLD:
        return (
            f"{host} offers only TLS below 1.2, which is not safe",
            "the coordinator lets its server, or the proxy before it, offer TLS 1.2 and 1.3 "
            "(nginx: ssl_protocols TLSv1.2 TLSv1.3)",
        )
    return (
        f"the connection ended while it was being encrypted ({reason or error})",
        "something else than a coordinator listens there, or a firewall cuts TLS: correct "
        "coordinator.address, or ask the network's administrator",
    )


def _lasts(encrypted: ssl.SSLSocket) -> str:
    """Return for how long the certificate of the other side is valid."""
    certificate = encrypted.getpeercert() or {}
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    days = (end - datetime.now(UTC)).days
    return f"certificate valid for {days} more days"


def _answer(encrypted: ssl.SSLSocket, host: str, port: int) -> str:
    """Return the date in the answer of a coordinator to /health."""
    request = HTTPConnection(host, port)
    request.sock = encrypted
    try:
        request.request("GET", "/health")
        answer = request.getresponse()
    except (OSError, HTTPException) as error:
        raise _FailedError(
            bad("answer", f"no answer to /health ({error or type(error).__name__})",
                "the coordinator looks whether its SuperLink runs: fedmaml coordinator status DIR")
        ) from error  # fmt: skip
    if answer.status != 200:
        raise _FailedError(
            bad("answer", f"{host} answers /health with {answer.status}",
                "something else listens there, or the SuperLink behind the proxy is down: ask the "
                "coordinator")
        )  # fmt: skip
    return answer.getheader("Date", "")


def _clock(date: str) -> Finding:
    if not date:
        return unknown("clock", "the coordinator says no time")
    off = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    if abs(off) > MAX_CLOCK_SECONDS:
        ahead = "ahead of" if off > 0 else "behind"
        raise _FailedError(
            bad("clock", f"this machine is {abs(off):.0f} s {ahead} the coordinator",
                "let both follow a time server (timedatectl set-ntp true): signatures of a node "
                "whose clock is wrong are refused")
        )  # fmt: skip
    return good("clock", f"within {max(abs(off), 1):.0f} s of the coordinator's")
