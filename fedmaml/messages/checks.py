"""Checks that every reply of a node passes before it is read, in training and evaluation alike.

    refuse_oversized   how many records, entries, values and bytes there are; costs next to nothing
    seal, check_seal   SHA-256 over the whole body, so that a flipped bit is refused
    check_fit          round, meta-parameters, version and clients are those of the request

The seal finds damage, not malice: who can change a body can seal it anew.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmaml import __version__
from fedmaml.core.errors import MessageError
from fedmaml.core.records import Rejection
from fedmaml.core.requests import EvaluateRequest, TrainReply, TrainRequest

REPLY = "reply"
"""The record that says what a reply belongs to."""

MAX_TEXT = 10_000
"""Characters of a text in a reply, beside `TEXT_PER_CLIENT`."""

TEXT_PER_CLIENT = 24
"""Characters for each client that a text may name."""

SEAL, SIGNATURE = "sha256", "signature"
SIGNED_FOR = {"run": "signed-run", "request": "signed-request", "site": "signed-site"}
"""What `messages.signatures` signs beside the body -> its entry in a reply."""

_VERSION = "version"
_OUTSIDE = frozenset((SEAL, SIGNATURE, *SIGNED_FOR.values()))  # of the body, in `REPLY`
_SHOWN = 3  # names of a stranger that are quoted, each cut to
_LENGTH = 40  # characters
_MIN_ENTRIES = 16  # that a record may always have
_SPARE = 16  # values that a list may have too many; its reader names the fault better

Body = Mapping[str, type[ArrayRecord] | type[MetricRecord] | type[ConfigRecord]]
"""Name of a record -> its type."""


def fitting(request: TrainRequest | EvaluateRequest | TrainReply) -> dict[str, Any]:
    """Return the entries of a reply to a request that `check_fit` compares with it."""
    return {"round": request.round, "base": request.base, _VERSION: __version__}


def check_fit(
    reply: Mapping[str, Any],
    clients: Sequence[int],
    rejected: Sequence[Rejection],
    request: TrainRequest | EvaluateRequest,
) -> None:
    """Refuse a reply to another request.

    Raises:
        MessageError: "STALE", "VERSION" or "CLIENTS".
    """
    if reply["round"] != request.round:
        said = shown([str(reply["round"])])
        raise MessageError("STALE", f"reply of round {said} in round {request.round}")
    if reply["base"] != request.base:
        said = shown([str(reply["base"])])
        raise MessageError(
            "VERSION", f"computed from meta-parameters {said}, current are {request.base}"
        )
    if (version := reply.get(_VERSION, "unknown")) != __version__:
        raise MessageError(
            "VERSION",
            f"computed by fedmaml {shown([str(version)])}, the server runs {__version__}: install "
            "the same version at both",
        )
    spoken_for = [*clients, *(client for item in rejected for client in item.clients)]
    if sorted(spoken_for) != sorted(request.clients):
        raise MessageError(
            "CLIENTS",
            f"speaks for {len(spoken_for)} clients, asked were {len(request.clients)} "
            "(or others than these)",
        )


def refuse_oversized(
    content: RecordDict, body: Body, columns: int, clients: int, array_bytes: int = 0
) -> None:
    """Refuse a reply of more parts than its request can have, before anything of it is read.

    Args:
        content: As it came.
        body: Records that it may have.
        columns: Most entries of a record of metrics.
        clients: Of the request.
        array_bytes: Most bytes of all arrays together.

    Raises:
        MessageError: "KEYS", or "SHAPE" for arrays that are too large.
    """
    columns = max(columns, _MIN_ENTRIES)
    if unknown := [name for name in list(content)[: len(body) + 1] if name not in body]:
        raise MessageError("KEYS", f"the reply has unknown records: {shown(unknown)}")
    for name, record in content.items():
        if not isinstance(record, body[name]):
            raise MessageError(
                "KEYS", f"record {name!r} is no {body[name].__name__} but {type(record).__name__}"
            )
        if len(record) > columns:
            raise MessageError(
                "KEYS",
                f"record {name!r} has {len(record)} entries, at most {columns} were asked for",
            )
        if not isinstance(record, ArrayRecord):
            _refuse_long(name, record, clients)
        elif (size := sum(len(array.data) for array in record.values())) > array_bytes:
            raise MessageError(
                "SHAPE",
                f"the arrays of record {name!r} have {size} bytes, at most {array_bytes} can be",
            )


def _refuse_long(name: str, record: MetricRecord | ConfigRecord, clients: int) -> None:
    most = MAX_TEXT + TEXT_PER_CLIENT * clients
    for key, value in record.items():
        values = value if isinstance(value, list) else [value]
        if len(values) > clients + _SPARE:
            raise MessageError(
                "KEYS",
                f"entry {shown([key])} of record {name!r} has {len(values)} values for {clients} "
                "clients",
            )
        if any(isinstance(each, str | bytes) and len(each) > most for each in values):
            raise MessageError("KEYS", f"entry {shown([key])} of record {name!r} is too long")


def shown(names: Iterable[str]) -> str:
    """Return a few names from a stranger, printable and cut to a length."""
    listed = list(names)
    some = (
        "".join(letter if letter.isprintable() else "?" for letter in name[:_LENGTH])
        for name in listed[:_SHOWN]
    )
    rest = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(some) + rest


def seal(content: RecordDict) -> RecordDict:
    """Put the SHA-256 of a reply's body into it; return the same records."""
    reply = content[REPLY]
    assert isinstance(reply, ConfigRecord)
    reply[SEAL] = _sha256(content)
    return content


def check_seal(content: RecordDict) -> None:
    """Refuse a reply whose body is not the one that its node sealed.

    Raises:
        MessageError: "HASH".
    """
    reply = content.get(REPLY)
    said = reply.get(SEAL) if isinstance(reply, ConfigRecord) else None
    if said is None:
        raise MessageError("KEYS", f"record {REPLY!r} or its {SEAL!r} is missing")
    found = _sha256(content)
    if said != found:
        raise MessageError(
            "HASH", f"the body has the SHA-256 {found[:16]}, its node sent {shown([str(said)])}"
        )


def _sha256(content: RecordDict) -> str:
    digest = hashlib.sha256()
    for name in sorted(content):
        record: Mapping[str, Any] = content[name]
        keys = sorted(key for key in record if name != REPLY or key not in _OUTSIDE)
        digest.update(f"{name}\0{type(record).__name__}\0{len(keys)}\0".encode())
        for key in keys:
            for part in _parts(record[key]):
                digest.update(f"{key}\0{len(part)}\0".encode())
                digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """Yield the bytes of an entry; equal values have equal bytes in every process."""
    if isinstance(value, Array):
        yield repr((value.dtype, tuple(value.shape), value.stype)).encode()
        yield value.data
        return
    if isinstance(value, list) and value:
        numbers = {int: "q", float: "d"}.get(type(value[0]))
        if numbers:
            with suppress(TypeError, OverflowError):  # a list of several types
                packed = array(numbers, value)
                yield numbers.encode() + packed.tobytes()
                return
    yield repr(value).encode()
