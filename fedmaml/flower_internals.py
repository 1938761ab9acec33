"""Everything private of Flower that fedmaml touches, in one place; held by a contract test.

Checked against flwr 1.41. Everything else in fedmaml uses ``flwr.app``, ``flwr.serverapp`` and
``flwr.clientapp`` only.
"""

from typing import Literal

from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

__all__ = [
    "CLIENT_APP_RAISED",
    "SERVER_NODE_ID",
    "UNAVAILABLE",
    "NodeInfo",
    "Run",
    "become_node",
    "become_server",
    "message_bytes",
    "message_from_bytes",
    "message_to_bytes",
    "object_bytes",
    "set_message_id",
]

SERVER_NODE_ID = 1
CLIENT_APP_RAISED = 2
"""Flower's error code for a ClientApp that raised."""
UNAVAILABLE = (3, 4, 5)
"""Flower's error codes for a node that went away."""


def become_server(run_id: int) -> None:
    """Let this process construct messages, as Flower does for a ServerApp's process."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SERVER_NODE_ID, 1


def become_node(run_id: int, node_id: int) -> None:
    """Let this process construct replies, as Flower does for a ClientApp's process."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, 1


def message_to_bytes(message: Message) -> bytes:
    """Return a whole message, metadata and content or error, as one protobuf."""
    return message_to_proto(message).SerializeToString()


def message_from_bytes(data: bytes) -> Message:
    """Undo `message_to_bytes`.

    Raises:
        ValueError: If the bytes are no message.
    """
    try:
        return message_from_proto(MessageProto.FromString(data))
    except DecodeError as error:
        raise ValueError("these bytes are no message of Flower") from error


def set_message_id(message: Message, message_id: str) -> None:
    """Name a message, as Flower's own grids do when they push it."""
    message.metadata.__dict__["_message_id"] = message_id


def message_bytes(message: Message) -> int:
    """Return the bytes of a message as Flower serialises it, without HTTP and TLS framing."""
    with no_object_id_recompute():
        return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


def object_bytes(call: str, direction: Literal["down", "up"], body: bytes) -> int | None:
    """Return the bytes of the part of a message in the body of a call; None if it carries none.

    None, too, if the body is something else, such as the text of an error.

    Args:
        call: Last part of the path of Flower's Fleet API.
        direction: "down" for a response, "up" for a request.
        body: Protobuf.
    """
    try:
        if (call, direction) == ("pull-object", "down"):
            return len(PullObjectResponse.FromString(body).object_content)
        if (call, direction) == ("push-object", "up"):
            return len(PushObjectRequest.FromString(body).object_content)
    except DecodeError:
        pass
    return None
