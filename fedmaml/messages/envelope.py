"""Flower's messages, for rooms that count or answer them without being Flower's."""

from flwr.app import Message, RecordDict

__all__ = ["Message", "RecordDict", "reply_to"]


def reply_to(message: Message, content: RecordDict) -> Message:
    """Return the answer to a message."""
    return Message(content, reply_to=message)
