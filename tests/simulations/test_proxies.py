"""HTTP_PROXY is set in many hospitals: what stays on this machine must not go there."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from fedmaml.simulations.backends.flower_processes import offline_environment


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("word", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_flowers_client_reaches_loopback_without_the_proxy(
    word: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(word, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(httpx.ConnectError):
        httpx.get(address, timeout=5.0)
    monkeypatch.setenv("NO_PROXY", "hospital.example")
    environment = offline_environment(tmp_path)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, environment[name])
    assert httpx.get(address, timeout=5.0).text == "here"
    assert environment["NO_PROXY"].split(",")[0] == "hospital.example"
