"""Check the replies of a round: which are sound, and which clients are left out and why."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from flwr.app import Message, RecordDict

from fedmaml import flower_internals
from fedmaml.core.errors import MessageError
from fedmaml.core.records import Rejection
from fedmaml.core.requests import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from fedmaml.server.admission import EVERYBODY, Admission

Answer = TypeVar("Answer", TrainReply, EvaluateReply)
Request = TypeVar("Request", TrainRequest, EvaluateRequest)
Asked = TypeVar("Asked")

logger = logging.getLogger("fedmaml")


def read_all(
    read: Callable[[RecordDict, Request], Answer],
    sent: Sequence[tuple[Message, Request]],
    replies: Iterable[Message],
    admission: Admission = EVERYBODY,
) -> tuple[list[tuple[str, Answer]], list[Rejection]]:
    """Read the replies to all requests; return the sound ones, with their nodes, and rejections."""
    sound: list[tuple[str, Answer]] = []
    rejected: list[Rejection] = []
    for message, request, reply in matched(sent, replies):
        node = str(message.metadata.dst_node_id)
        try:
            answer = _readable(read, message, reply, request, admission)
        except MessageError as error:
            rejected.append(Rejection(error.reason, error.detail, node, request.clients))
            continue
        rejected += [replace(rejection, node=node) for rejection in answer.rejected]
        if answer.clients:
            sound.append((node, answer))
    return sound, rejected


def matched(
    sent: Sequence[tuple[Message, Asked]], replies: Iterable[Message]
) -> list[tuple[Message, Asked, Message | None]]:
    """Pair each request with its reply, or None; a second reply to the same request is ignored.

    The id of the request pairs them: error replies do not carry the id of their node.
    """
    answers: dict[str, Message] = {}
    for reply in replies:
        if answers.setdefault(reply.metadata.reply_to_message_id, reply) is not reply:
            logger.warning("ignored a second reply to the same request")
    return [
        (message, request, answers.get(message.metadata.message_id)) for message, request in sent
    ]


def _readable(
    read: Callable[[RecordDict, Request], Answer],
    message: Message,
    reply: Message | None,
    request: Request,
    admission: Admission,
) -> Answer:
    """Read a reply; any fault in it becomes a `MessageError`."""
    try:
        content = content_of(reply)
        admission.check_reply(content, message.metadata.message_id, request.site)
        return read(content, request)
    except MessageError:
        raise
    except Exception as error:  # a damaged or malicious reply may break a reader in any way
        detail = f"the reply cannot be read ({type(error).__name__})"
        raise MessageError("KEYS", detail) from error


def content_of(reply: Message | None) -> RecordDict:
    """Return a reply's records; raise `MessageError` if there are none."""
    if reply is None:
        raise MessageError("NO_REPLY", "no answer before the deadline")
    if reply.has_error():
        gone = reply.error.code in flower_internals.UNAVAILABLE
        raise MessageError("NO_REPLY" if gone else "RAISED", _one_line(reply.error.reason))
    return reply.content


def _one_line(reason: str | None) -> str:
    """Return the last line of a text, e.g. of a traceback; at most 300 characters."""
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"


def log_left_out(when: str, rejected: Sequence[Rejection]) -> None:
    """Log what was left out, one line per reason."""
    clients: dict[tuple[str, str], list[int]] = {}
    for rejection in rejected:
        clients.setdefault((rejection.reason, rejection.detail), []).extend(rejection.clients)
    for (reason, detail), left_out in clients.items():
        shown = _short(sorted(left_out))
        logger.warning("%s: left out clients %s: %s: %s", when, shown, reason, detail)


def _short(clients: Sequence[int]) -> str:
    shown = ", ".join(map(str, clients[:5]))
    return f"{shown} and {len(clients) - 5} more" if len(clients) > 5 else shown
