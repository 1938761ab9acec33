"""What passes the socket between a site's app and its worker: a header and one message, in chunks.

    app -> worker    header {bytes, version, run, node, run_config}, then Flower's message
    worker -> app    header {bytes}, then Flower's reply

A header is JSON, a message is one protobuf (`flower_internals.message_to_bytes`). Both sides know
from the header how many bytes will come, refuse more than the site's file allows before they read
them, and stop reading at the first byte too many. This module imports no PyTorch.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from fedmaml.core.errors import RefusedError

SERVICE: Final = "fedmaml.Site"
ANSWER: Final = "Answer"
METHOD: Final = f"/{SERVICE}/{ANSWER}"

CHUNK: Final = 2**20
"""Most bytes of a part; also of a header."""

OPTIONS: Final = (
    ("grpc.max_receive_message_length", CHUNK),
    ("grpc.max_send_message_length", CHUNK),
    ("grpc.enable_http_proxy", 0),
)
"""Of channel and server: no part is larger than a chunk, and no proxy sees it."""


def chunked(header: Mapping[str, Any], body: bytes) -> Iterator[bytes]:
    """Yield the parts of a message: its header, then its bytes.

    Raises:
        RefusedError: If the header is larger than a chunk.
    """
    first = json.dumps({**header, "bytes": len(body)}).encode()
    if len(first) > CHUNK:
        raise RefusedError(f"the run configuration has {len(first)} bytes, at most {CHUNK} can be")
    yield first
    view = memoryview(body)
    for start in range(0, len(body), CHUNK):
        yield bytes(view[start : start + CHUNK])


def joined(parts: Iterable[bytes], most: int) -> tuple[dict[str, Any], bytes]:
    """Undo `chunked`.

    Args:
        parts: As they arrive.
        most: Largest message in bytes.

    Raises:
        RefusedError: If the message is larger, or is not what its header announces.
    """
    arriving = iter(parts)
    try:
        header = json.loads(next(arriving))
        announced = int(header["bytes"])
    except (StopIteration, ValueError, TypeError, KeyError) as error:
        raise RefusedError("a message to or from the site's worker has no header") from error
    refuse_larger(announced, most)
    body = bytearray()
    for part in arriving:
        if len(body) + len(part) > announced:
            raise RefusedError(f"a message has more than the {announced} bytes that it announces")
        body += part
    if len(body) < announced:
        raise RefusedError(f"a message of {announced} bytes ends after {len(body)}")
    return header, bytes(body)


def refuse_larger(size: int, most: int) -> None:
    """Refuse a message of more bytes than the site's file allows.

    Raises:
        RefusedError: Names both.
    """
    if not 0 <= size <= most:
        raise RefusedError(
            f"a message of {size} bytes, and this site takes and sends at most {most}: use a "
            "smaller network, or let the site raise limits.message_bytes in its file"
        )
