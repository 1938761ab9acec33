"""A Grid around a Grid that counts messages, their bytes and the seconds spent waiting.

Serialising a message to learn its size costs about as much as sending it. So it is done once for
each shape of message: the same records, keys, array sizes and list lengths. Small numbers take
fewer bytes than large ones, so messages of one shape may differ by a few bytes. A message that
stays a value (`messages.handed`) is written if it is the first of its shape, and travels as
written, so that its reader checks it.
"""

import math
import time
from ast import literal_eval
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, Message, RecordDict
from flwr.serverapp import Grid

from fedmaml.flower_internals import NodeInfo, Run, message_bytes
from fedmaml.messages.handed import Handed

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0  # seconds between looks for replies

MAX_ENTRIES = 10_000
"""A message of more entries is not one of ours: it is not written to learn its size."""


@dataclass(frozen=True)
class Traffic:
    """Messages of one type so far: down to nodes, up to the server.

    Attributes:
        seconds: Wall time between sending and the last reply.
    """

    messages_down: int = 0
    messages_up: int = 0
    message_bytes_down: int = 0
    message_bytes_up: int = 0
    seconds: float = 0.0

    def __sub__(self, earlier: "Traffic") -> "Traffic":
        """Return the traffic since an earlier reading."""
        return Traffic(
            self.messages_down - earlier.messages_down,
            self.messages_up - earlier.messages_up,
            self.message_bytes_down - earlier.message_bytes_down,
            self.message_bytes_up - earlier.message_bytes_up,
            self.seconds - earlier.seconds,
        )


class MeteredGrid(Grid):
    """Counts what goes through another Grid, by type of message."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._sizes: dict[Hashable, int] = {}
        self._messages: dict[tuple[str, str], int] = defaultdict(int)
        self._bytes: dict[tuple[str, str], int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)

    def traffic(self, message_type: str) -> Traffic:
        """Return the traffic of messages of a type so far."""
        down, up = (message_type, "down"), (message_type, "up")
        return Traffic(
            self._messages[down],
            self._messages[up],
            self._bytes[down],
            self._bytes[up],
            self._seconds[message_type],
        )

    def sizes(self) -> dict[str, int]:
        """Return the shapes of messages so far, as texts, and their bytes."""
        return {repr(shape): size for shape, size in self._sizes.items()}

    def go_on(self, counted: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]) -> None:
        """Continue after another process.

        Args:
            counted: Type of message -> its `Traffic`.
            sizes: From `sizes`, so that messages count as many bytes as they would have there.
        """
        self._sizes |= {literal_eval(shape): size for shape, size in sizes.items()}
        for kind, counts in counted.items():
            traffic: Any = counts
            for way in ("down", "up"):
                self._messages[kind, way] = traffic[f"messages_{way}"]
                self._bytes[kind, way] = traffic[f"message_bytes_{way}"]
            self._seconds[kind] = traffic["seconds"]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages of one type and return the replies, counting both.

        Messages are sent once. Replies are collected until all are there or the time is over; no
        message outlives it, so a slow node is not left with old requests.
        """
        sent = list(messages)
        if timeout is not None:
            for message in sent:
                message.metadata.ttl = timeout
        sent = self._count(sent, "down")
        started = time.perf_counter()
        replies = self._collected(self._grid.push_messages(sent), timeout)
        if sent:
            self._seconds[sent[0].metadata.message_type] += time.perf_counter() - started
        return self._count(replies, "up")

    def _collected(self, ids: Iterable[str | None], timeout: float | None) -> list[Message]:
        """Return the replies to messages that arrive in time, by a clock that never jumps."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        waiting = [each for each in ids if each]  # None: one that could not be sent
        replies: list[Message] = []
        pause = _FIRST_PAUSE
        while waiting:
            arrived = list(self._grid.pull_messages(waiting))
            replies += arrived
            answered = {reply.metadata.reply_to_message_id for reply in arrived}
            waiting = [each for each in waiting if each not in answered]
            left = deadline - time.monotonic()
            if not waiting or left <= 0:
                break
            time.sleep(min(pause, left))
            pause = _FIRST_PAUSE if arrived else min(pause * 1.5, _LONGEST_PAUSE)
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, counting them."""
        return self._grid.push_messages(self._count(messages, "down"))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return replies that have arrived, counting them."""
        return self._count(self._grid.pull_messages(message_ids), "up")

    def set_run(self, run: Run) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the inner Grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Pass on."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Pass on."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Pass on."""
        return self._grid.get_nodes()

    def _count(self, messages: Iterable[Message], direction: str) -> list[Message]:
        counted = list(messages)
        for message in counted:
            way = (message.metadata.message_type, direction)
            self._messages[way] += 1
            self._bytes[way] += self._size(message, way)
        return counted

    def _size(self, message: Message, way: tuple[str, str]) -> int:
        if message.has_content() and not isinstance(message.content, Handed):
            records = message.content.values()
            if sum(map(len, records)) > MAX_ENTRIES:
                return sum(_bytes_of_arrays(record) for record in message.content.values())
        handed = message.content if message.has_content() else None
        known = (way, handed.shape) if isinstance(handed, Handed) else None
        if known in self._sizes:
            return self._sizes[known]
        if isinstance(handed, Handed):
            message.content = handed.written()
        shape = (way, _shape(message))
        if shape not in self._sizes:
            self._sizes[shape] = message_bytes(message)
        if known is not None:
            self._sizes[known] = self._sizes[shape]
        return self._sizes[shape]


def _shape(message: Message) -> Hashable:
    """Return what determines a message's size, up to a few bytes."""
    if message.has_error():
        return len(message.error.reason or "")
    return tuple(
        (name, tuple((key, _length(value)) for key, value in record.items()))
        for name, record in message.content.items()
    )


def _bytes_of_arrays(record: Mapping[str, object]) -> int:
    return sum(len(value.data) for value in record.values() if isinstance(value, Array))


def _length(value: object) -> Hashable:
    """Return what determines the size of a record's entry."""
    if isinstance(value, Array):
        return len(value.data)
    if isinstance(value, list) and value and isinstance(value[0], str | bytes):
        return tuple(map(len, value))
    return len(value) if isinstance(value, list | str | bytes) else 1
