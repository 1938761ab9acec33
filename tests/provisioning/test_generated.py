"""Generated files: what nginx lets through, and what systemd and containers start."""

import http.client
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedmaml.core.errors import ConfigurationError
from fedmaml.provisioning.connecting import connect, first_failure
from fedmaml.provisioning.coordinator_file import Coordinator, make_coordinator
from fedmaml.provisioning.generated import coordinator_files, site_files
from fedmaml.provisioning.site_folder import Invitation, make_site
from fedmaml.simulations.backends.processes import free_ports
from tests.provisioning.proxies import NGINX, nginx

MEGABYTES = 6
needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx (Debian: nginx-light)")
pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")


class Inside:
    """What stands for the SuperLink: it answers everything, and notes what reached it."""

    def __init__(self, folder: Path) -> None:
        self.reached: list[str] = []
        reached = self.reached

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                reached.append(f"{self.command} {self.path} {len(body)}")
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.folder = folder

    def begin(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Inside, Path]]:
    folder = tmp_path_factory.mktemp("coordinator") / "fed"
    (outer,) = free_ports(1)
    inside = Inside(folder)
    make_coordinator(folder, Coordinator(f"localhost:{outer}", f"127.0.0.1:{inside.port}", ("a",)))
    inside.begin()
    configuration, *_ = coordinator_files(folder, folder / "files", MEGABYTES)
    with nginx(configuration, outer, folder / "nginx"):
        yield outer, inside, folder
    inside.server.shutdown()
    inside.server.server_close()


def asked(port: int, folder: Path, method: str, path: str, body: bytes = b"") -> int:
    """Return the status of an answer; the path goes out as it is."""
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
    try:
        connection.request(method, path, body)
        return connection.getresponse().status
    finally:
        connection.close()


@needs_nginx
def test_sites_see_fleet_calls_and_health(proxied: tuple[int, Inside, Path]) -> None:
    port, inside, folder = proxied
    inside.reached.clear()
    assert asked(port, folder, "POST", "/v1/fleet/pull-messages", b"x" * 10) == 200
    assert asked(port, folder, "GET", "/health") == 200
    assert inside.reached == ["POST /v1/fleet/pull-messages 10", "GET /health 0"]
    found = connect(f"localhost:{port}", folder / "ca.crt")
    assert first_failure(found) is None, found


@needs_nginx
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/control/register-node"),
        ("POST", "/v1/runtime/pull-message"),
        ("POST", "/v1/fleet"),
        ("POST", "/v1/fleet/../control/start-run"),
        ("POST", "/v1/fleet/%2e%2e/control/start-run"),
        ("POST", "/v1/fleet/..%2fcontrol/start-run"),
        ("POST", "/v1/fleet/%2e%2e%2fcontrol%2fstart-run"),
        ("POST", "//v1//control/start-run"),
        ("POST", "/v1/fleet/./../control/start-run"),
        ("POST", "/V1/CONTROL/start-run"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
        ("POST", "/health"),
        ("GET", "/health/x"),
        ("GET", "/v1/fleet/pull-messages"),
    ],
)
def test_nothing_else_reaches_the_superlink(
    proxied: tuple[int, Inside, Path], method: str, path: str
) -> None:
    port, inside, folder = proxied
    inside.reached.clear()
    assert asked(port, folder, method, path) in (301, 400, 403, 404)
    assert inside.reached == []


@needs_nginx
def test_the_size_of_an_object_is_bounded(proxied: tuple[int, Inside, Path]) -> None:
    port, inside, folder = proxied
    inside.reached.clear()
    allowed = b"x" * (MEGABYTES * 2**20)
    assert asked(port, folder, "POST", "/v1/fleet/push-object", allowed) == 200
    assert len(inside.reached) == 1
    assert asked(port, folder, "POST", "/v1/fleet/push-object", allowed + b"x") == 413
    assert len(inside.reached) == 1


@needs_nginx
def test_a_client_in_plain_text_or_with_old_tls_is_refused(
    proxied: tuple[int, Inside, Path],
) -> None:
    port, inside, folder = proxied
    inside.reached.clear()
    plain = http.client.HTTPConnection("localhost", port, timeout=5)
    plain.request("POST", "/v1/fleet/pull-messages")
    assert plain.getresponse().status == 400
    plain.close()
    old = ssl.create_default_context(cafile=folder / "ca.crt")
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("localhost", port), timeout=5) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(connection, server_hostname="localhost")
    assert inside.reached == []


# --- the other files --------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    fed, ward = tmp_path / "fed", tmp_path / "ward"
    make_coordinator(fed, Coordinator("fl.example.org:443", "127.0.0.1:9443", ("a", "b")))
    make_site(ward, Invitation("a", 0, 2, "fl.example.org:443"), fed / "ca.crt")
    return fed, ward


def test_nothing_is_left_open_in_a_file(folders: tuple[Path, Path], tmp_path: Path) -> None:
    fed, ward = folders
    made = coordinator_files(fed, tmp_path / "c") + site_files(ward / "site.toml", tmp_path / "s")
    assert len(made) == 5
    for path in [*made, fed / "run.toml"]:
        assert "@{" not in path.read_text()
    assert "server_name fl.example.org;" in made[0].read_text()
    assert "quorum = 2" in (fed / "run.toml").read_text()


def test_a_run_file_that_was_changed_is_kept(folders: tuple[Path, Path], tmp_path: Path) -> None:
    fed, _ = folders
    (fed / "run.toml").write_text('scenario = "csv"\n')
    coordinator_files(fed, tmp_path / "c")
    assert (fed / "run.toml").read_text() == 'scenario = "csv"\n'


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_takes_the_units(folders: tuple[Path, Path], tmp_path: Path) -> None:
    fed, ward = folders
    made = coordinator_files(fed, tmp_path / "c") + site_files(ward / "site.toml", tmp_path / "s")
    for unit in (path for path in made if path.suffix == ".service"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        about_us = [line for line in done.stderr.splitlines() if unit.name in line]
        assert not about_us, about_us


def test_units_start_what_the_command_line_offers(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    fed, ward = folders
    made = coordinator_files(fed, tmp_path / "c") + site_files(ward / "site.toml", tmp_path / "s")
    starts = [
        line for path in made for line in path.read_text().splitlines()
        if line.startswith(("ExecStart", "ENTRYPOINT"))
    ]  # fmt: skip
    assert len(starts) == 4
    assert all(re.search(r"(coordinator|site)\W+run", line) for line in starts)


def test_a_folder_that_could_break_out_of_a_file_is_refused(tmp_path: Path) -> None:
    ward = tmp_path / "a;b"
    fed = tmp_path / "fed"
    make_coordinator(fed, Coordinator("fl.example.org:443", "127.0.0.1:9443", ("a",)))
    make_site(ward, Invitation("a", 0, 1, "fl.example.org:443"), fed / "ca.crt")
    with pytest.raises(ConfigurationError, match="cannot stand in"):
        site_files(ward / "site.toml", tmp_path / "s")
