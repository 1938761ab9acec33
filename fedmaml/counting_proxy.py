"""A proxy between a SuperNode and its SuperLink that counts the bytes of the socket.

Flower's Fleet API is protobuf over HTTP/1.1: a message is cut into objects, and each is pulled or
pushed by a call of its own. The proxy forwards bytes untouched and parses them (h11), so that it
counts separately:

    objects      contents of the objects that messages are made of: what Flower serialises
    envelopes    what stands around them in the bodies of the calls that carry them
    other calls  bodies of all other calls: asking for messages, heartbeats, the run and its app
    http         request and status lines, headers
    unread       what was no HTTP/1.1; 0 unless Flower changes its transport

A proxy sees what TCP carries; headers of TCP and IP come on top of it (40 bytes a packet).
"""

import asyncio
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

import h11

from fedmaml.flower_internals import object_bytes

Direction = Literal["down", "up"]
"""Down to the node, up to the server."""

_READ_BYTES = 2**18


@dataclass(frozen=True)
class SocketBytes:
    """Bytes in one direction; attributes as in the module docstring."""

    objects: int = 0
    envelopes: int = 0
    other_calls: int = 0
    http: int = 0
    unread: int = 0

    @property
    def total(self) -> int:
        """All that crossed the socket."""
        return sum(getattr(self, item.name) for item in fields(self))

    def __add__(self, other: "SocketBytes") -> "SocketBytes":
        """Add up."""
        return SocketBytes(
            **{item.name: getattr(self, item.name) + getattr(other, item.name)
               for item in fields(self)}
        )  # fmt: skip

    def to_json(self) -> dict[str, int]:
        """Return plain values, the total among them."""
        return {"total": self.total} | {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass
class Tally:
    """What a proxy has counted so far.

    Attributes:
        down: Down to the node.
        up: Up to the server.
        calls: Name of a call -> how often it was answered.
    """

    down: SocketBytes = field(default_factory=SocketBytes)
    up: SocketBytes = field(default_factory=SocketBytes)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, direction: Direction, amount: SocketBytes) -> None:
        """Count what crossed in one direction."""
        setattr(self, direction, getattr(self, direction) + amount)


class CountingProxy:
    """Listens on a port of 127.0.0.1, from being entered to being left, in a thread of its own.

    Args:
        target: Where connections go, ``host:port``.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self.tally = Tally()
        self.address = ""

    def __enter__(self) -> Self:
        """Begin to listen; `address` says where."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close all connections."""
        with suppress(RuntimeError):  # the loop is closed: it never listened
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._listen())
        except OSError as error:  # raised again where it can be seen, in __enter__
            self._failure = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
        self._ready.set()
        await self._over.wait()
        server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # lets the transports close their sockets

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = Exchange(self.tally)
        writers = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            writers.append(server_writer)
            await asyncio.gather(
                _forward(reader, server_writer, exchange, "up"),
                _forward(server_reader, writer, exchange, "down"),
            )
        except OSError:
            pass  # nothing listens there: the caller sees a closed connection, as without a proxy
        except asyncio.CancelledError:
            pass  # the proxy is left; nobody awaits this task's result
        finally:
            exchange.end()
            for each in writers:
                each.close()


async def _forward(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    exchange: "Exchange",
    direction: Direction,
) -> None:
    """Forward one direction of a connection until it ends."""
    with suppress(ConnectionError):  # one side closed: the end below closes the other
        while data := await reader.read(_READ_BYTES):
            exchange.read(direction, data)
            writer.write(data)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.write_eof()


class Exchange:
    """Reads along with the requests and responses of one connection.

    Each of two parsers needs what the other has read: the end of a response depends on its
    request.

    Args:
        tally: What is counted.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._parsers = {"up": h11.Connection(h11.SERVER), "down": h11.Connection(h11.CLIENT)}
        self._raw: dict[Direction, int] = {"up": 0, "down": 0}
        self._body: dict[Direction, bytearray] = {"up": bytearray(), "down": bytearray()}
        self._call = ""
        self._readable = True

    def read(self, direction: Direction, data: bytes) -> None:
        """Parse bytes of one direction."""
        self._raw[direction] += len(data)
        if not self._readable:
            return
        try:
            self._parsers[direction].receive_data(data)
            self._pump(direction)
        except h11.ProtocolError:
            self._readable = False

    def end(self) -> None:
        """Count what belongs to no complete request or response."""
        for direction, raw in self._raw.items():
            self._tally.add(direction, SocketBytes(unread=raw))
            self._raw[direction] = 0

    def _pump(self, direction: Direction) -> None:
        parser, other = self._parsers[direction], self._parsers[_opposite(direction)]
        while True:
            event: Any = parser.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return
            other.send_with_data_passthrough(event)
            if isinstance(event, h11.Request):
                self._call = event.target.decode("ascii", "replace").rpartition("/")[2]
            elif isinstance(event, h11.Data):
                self._body[direction] += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._count(direction, len(parser.trailing_data[0]))
                if parser.our_state is h11.DONE and parser.their_state is h11.DONE:
                    parser.start_next_cycle()
                    other.start_next_cycle()

    def _count(self, direction: Direction, left: int) -> None:
        """Count a complete request or response; what is left belongs to the next."""
        body = bytes(self._body[direction])
        objects = object_bytes(self._call, direction, body)
        around = 0 if objects is None else len(body) - objects
        self._tally.add(
            direction,
            SocketBytes(
                objects=objects or 0,
                envelopes=around,
                other_calls=len(body) if objects is None else 0,
                http=self._raw[direction] - left - len(body),
            ),
        )
        self._raw[direction] = left
        self._body[direction].clear()
        if direction == "down":
            self._tally.calls[self._call] += 1


def _opposite(direction: Direction) -> Direction:
    return "down" if direction == "up" else "up"


def crossed(tallies: list[Tally]) -> dict[str, Any]:
    """Return the bytes of the sockets of all nodes, as ``cost.socket`` of a summary."""
    calls: dict[str, int] = defaultdict(int)
    for tally in tallies:
        for name, count in tally.calls.items():
            calls[name] += count
    return {
        "down": sum((tally.down for tally in tallies), SocketBytes()).to_json(),
        "up": sum((tally.up for tally in tallies), SocketBytes()).to_json(),
        "nodes": [{"down": tally.down.total, "up": tally.up.total} for tally in tallies],
        "calls": dict(sorted(calls.items())),
    }
