"""The counting proxy, between real sockets: what it counts, and that it changes nothing."""

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest

from fedmaml.counting_proxy import CountingProxy, Tally, crossed

CONTENT = bytes(range(256)) * 5000


class Server(BaseHTTPRequestHandler):
    """Answers like a SuperLink: 1,280,000 bytes to pull-object, "ok" to anything else."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        received = self.rfile.read(int(self.headers["content-length"]))
        body, status = b"ok", 200
        if self.path.endswith("/pull-object"):
            request = PullObjectRequest.FromString(received)
            found = request.object_id == "there"
            answer = PullObjectResponse(object_found=found, object_content=CONTENT)
            body, status = (answer.SerializeToString(), 200) if found else (b"{ not found", 404)
        self.send_response(status)
        if self.path.endswith("/chunked"):
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"2\r\nok\r\n0\r\n\r\n")
            return
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def posted(address: str, *calls: tuple[str, bytes]) -> list[tuple[int, bytes]]:
    """Make calls over one connection."""
    connection = http.client.HTTPConnection(address)
    answers = []
    for name, body in calls:
        connection.request("POST", f"/v1/fleet/{name}", body)
        response = connection.getresponse()
        answers.append((response.status, response.read()))
    connection.close()
    return answers


def pull(name: str) -> tuple[str, bytes]:
    return "pull-object", PullObjectRequest(object_id=name).SerializeToString()


def counted(*calls: tuple[str, bytes]) -> tuple[Tally, list[tuple[int, bytes]]]:
    with serving() as address:
        with CountingProxy(address) as proxy:
            answers = posted(proxy.address, *calls)
        assert answers == posted(address, *calls)
    return proxy.tally, answers


def test_what_is_pulled_counts_as_objects_to_the_byte() -> None:
    tally, answers = counted(pull("there"), pull("there"))
    assert PullObjectResponse.FromString(answers[0][1]).object_content == CONTENT
    assert tally.down.objects == 2 * len(CONTENT)
    assert tally.down.envelopes == 2 * (len(answers[0][1]) - len(CONTENT))
    assert (tally.down.other_calls, tally.down.unread, tally.up.objects) == (0, 0, 0)
    assert tally.up.other_calls == 2 * len(pull("there")[1])
    assert 0 < tally.down.http < 500
    assert tally.calls == {"pull-object": 2}


def test_what_is_pushed_counts_as_objects_to_the_byte() -> None:
    request = PushObjectRequest(object_id="ab" * 32, object_content=CONTENT)
    body = request.SerializeToString()
    tally, _ = counted(("push-object", body))
    assert tally.up.objects == len(CONTENT)
    assert tally.up.envelopes == len(body) - len(CONTENT)
    assert tally.down.other_calls == len(b"ok")


def test_errors_and_other_calls_carry_no_objects() -> None:
    tally, answers = counted(pull("absent"), ("send-node-heartbeat", b"12345"), ("chunked", b""))
    assert answers == [(404, b"{ not found"), (200, b"ok"), (200, b"ok")]
    assert (tally.down.objects, tally.up.objects) == (0, 0)
    assert tally.down.other_calls == len(b"{ not found") + 2 * len(b"ok")
    assert tally.up.other_calls == len(pull("absent")[1]) + 5
    assert sum(tally.calls.values()) == 3


@pytest.mark.parametrize("calls", [[pull("there")], [pull("absent"), ("chunked", b"abc")]])
def test_parts_add_up_to_what_the_sockets_carried(calls: list[tuple[str, bytes]]) -> None:
    """As another proxy sees it, which only counts."""
    with serving() as address, plain(address) as (front, carried), CountingProxy(front) as proxy:
        posted(proxy.address, *calls)
    assert {"up": proxy.tally.up.total, "down": proxy.tally.down.total} == carried


@contextmanager
def plain(target: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Forward one connection in the plainest way, counting bytes."""
    host, port = target.split(":")
    carried = {"up": 0, "down": 0}
    listener = socket.create_server(("127.0.0.1", 0))

    def pipe(name: str, source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65536):
            carried[name] += len(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with listener.accept()[0] as client, socket.create_connection((host, int(port))) as server:
            back = threading.Thread(target=pipe, args=("down", server, client))
            back.start()
            pipe("up", client, server)
            back.join()

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", carried
    thread.join()
    listener.close()


def talk(address: str, work: Callable[[socket.socket], bytes]) -> bytes:
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        return work(connection)


def test_what_is_no_http_is_forwarded_and_counted_as_unread() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        with listener.accept()[0] as connection:
            while data := connection.recv(100):
                connection.sendall(data)

    thread = threading.Thread(target=echo)
    thread.start()

    def work(connection: socket.socket) -> bytes:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        answer = connection.recv(100)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
        return answer

    with CountingProxy(f"127.0.0.1:{listener.getsockname()[1]}") as proxy:
        answer = talk(proxy.address, work)
    thread.join()
    listener.close()
    assert answer == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert proxy.tally.up.unread == proxy.tally.down.unread == len(answer)
    assert crossed([proxy.tally])["up"] == {
        "total": 24, "objects": 0, "envelopes": 0, "other_calls": 0, "http": 0, "unread": 24,
    }  # fmt: skip


def test_nobody_behind_the_proxy_looks_like_a_closed_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with CountingProxy(f"127.0.0.1:{port}") as proxy:
        assert talk(proxy.address, lambda connection: connection.recv(10)) == b""


def test_leaving_the_proxy_closes_connections_and_its_port() -> None:
    with serving() as address:
        with CountingProxy(address) as proxy:
            host, port = proxy.address.split(":")
            connection = socket.create_connection((host, int(port)), timeout=10)
            connection.sendall(b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok"):
                answer += connection.recv(1000)
        assert connection.recv(10) == b""
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=1)
