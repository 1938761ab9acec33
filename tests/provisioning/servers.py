"""Servers for tests: with a certificate of one's own choice, or with none, on loopback."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path

from fedmaml.provisioning.certificates import make_authority, make_server_certificate

HOST = "localhost"


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder."""

    certificate: Path
    key: Path


def new_authority(folder: Path, name: str = "ca") -> Authority:
    made = Authority(folder / f"{name}.crt", folder / f"{name}.key")
    make_authority(made.certificate, made.key, name)
    return made


def context_of(
    folder: Path,
    authority: Authority,
    names: tuple[str, ...] = (HOST,),
    days: int = 100,
    begin: datetime | None = None,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """Return what a server with a new certificate needs."""
    certificate, key = folder / "server.crt", folder / "server.key"
    pair = authority.certificate, authority.key
    make_server_certificate(certificate, key, pair, names, days, begin)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if newest < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = newest
    return context


@contextmanager
def serving(
    context: ssl.SSLContext | None, now: datetime | None = None, status: int = 200
) -> Iterator[str]:
    """Answer every connection with one answer; yields "host:port".

    Args:
        context: Of TLS; None: plain text.
        now: The server's clock; None: it says no time.
        status: Of its answers.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    date = f"Date: {format_datetime(now, usegmt=True)}\r\n" if now else ""
    answer = f"HTTP/1.1 {status} Said\r\n{date}Content-Length: 0\r\n\r\n".encode()

    def serve() -> None:
        while True:
            with suppress(OSError):
                connection, _ = listener.accept()
                connection.settimeout(5.0)
                with connection, suppress(OSError):
                    if context is not None:
                        connection = context.wrap_socket(connection, server_side=True)
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.close()
            if listener.fileno() < 0:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"{HOST}:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
