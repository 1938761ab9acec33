"""Requests and replies that stay values, where server and nodes are one process.

To write a message of records and to read it again takes as long as the rest of a small round. So in
one process a message holds the value itself. Only the first message of each shape is written: its
bytes are then counted, and the reader's checks see it (`server.metered_grid`).
"""

from collections.abc import Callable, Hashable
from typing import NoReturn

from flwr.app import RecordDict

from fedmaml.core.params import MetaParams, flatten, layout_of, unflatten
from fedmaml.core.requests import TrainReply, TrainRequest


class Handed(RecordDict):
    """The content of a message between a server and a node of one process.

    Args:
        value: The request or reply.
        shape: Everything that the size of the written message depends on, up to a few bytes.
        write: Returns the records that would travel.
    """

    value: TrainRequest | TrainReply
    shape: Hashable

    def __init__(
        self,
        value: TrainRequest | TrainReply,
        shape: Hashable,
        write: Callable[[], RecordDict],
    ) -> None:
        super().__init__()
        self.__dict__.update(value=value, shape=shape, write=write)

    def written(self) -> RecordDict:
        """Return the records that would travel to another process."""
        records: RecordDict = self.__dict__["write"]()
        return records

    def deflate(self) -> NoReturn:
        """Refuse to be serialised.

        Raises:
            TypeError: Always.
        """
        raise TypeError("this message stays in its process: send what `written` returns")


def copied(meta: MetaParams) -> MetaParams:
    """Return a copy, as a node gets it from a message: nothing that it does reaches the server."""
    return {group: unflatten(flatten(part), layout_of(part)) for group, part in meta.items()}


def handed_request(request: TrainRequest, write: Callable[[], RecordDict]) -> Handed:
    """Return a request as a message's content; ``meta`` should be `copied`."""
    shape = ("request", request.form, len(request.clients), bool(request.used))
    return Handed(request, shape, write)


def handed_reply(reply: TrainReply, write: Callable[[TrainReply], RecordDict]) -> Handed:
    """Return a reply as a message's content."""
    shape = (
        "reply",
        len(reply.clients),
        tuple((group, type(value).__name__) for group, value in reply.update.items()),
        tuple(reply.metrics),
        bool(reply.computations),
        tuple(reply.counted[0]) if reply.counted else (),
        tuple((len(one.detail), len(one.clients), one.reason) for one in reply.rejected),
        tuple(reply.engines.items()),
    )
    return Handed(reply, shape, lambda: write(reply))
