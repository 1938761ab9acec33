"""Messages of the roll call: which node hosts which clients.

What a node says is checked before it is believed: types, ranges and counts here, what only all
nodes together show in `server.roll`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedmaml import __version__
from fedmaml.core.errors import MessageError
from fedmaml.core.identity import MAX_TEXT as MAX_IDENTITY
from fedmaml.core.identity import Identity, identity_from_text
from fedmaml.core.params import Params
from fedmaml.core.requests import MAX_EXAMPLES
from fedmaml.messages.arrays import pack, unpack
from fedmaml.messages.checks import REPLY, Body, check_seal, refuse_oversized, seal, shown
from fedmaml.messages.records import required

MAX_TEXT = 1000
"""Longest text about its engine that is kept from a node."""

MAX_NAME = 64
"""Longest name of a site."""

MAX_CLIENTS = 10**7
"""Most clients of a split at one node."""

MAX_CLIENT = 2**40
"""Largest number of a client."""

MAX_NODES = 10**5
"""Most nodes that share the clients."""

MAX_STATISTIC = 1e30
"""Largest magnitude of a number in a client's statistics."""

SPLITS = "train", "validation", "test"

_BODY: Body = {
    "hosted": ConfigRecord, REPLY: ConfigRecord, "statistics": ArrayRecord, "layout": ConfigRecord
}  # fmt: skip
_STATISTIC_BYTES = 2**20  # of a client
_IDENTITY, _PIECE = "identity", 4096  # characters of its text in one value


@dataclass(frozen=True)
class RollCallReply:
    """The clients of a node.

    Attributes:
        hosted: split -> (start, stop, step) of the client numbers.
        statistics: Training client -> its sums.
        engine: Which engine computes updates, and why; empty if not reported.
        name: Of the site; it stays when the node is started anew.
        examples: Most num-examples of any of its training clients; 0: not declared.
        identity: What the site computes with; None: it does not say.
    """

    hosted: dict[str, tuple[int, int, int]]
    statistics: dict[int, Params]
    engine: str = ""
    name: str = ""
    examples: int = 0
    identity: Identity | None = None


def write_roll_call_reply(reply: RollCallReply) -> RecordDict:
    """Return the records of a roll-call reply."""
    said = {
        "version": __version__,
        "engine": reply.engine,
        "name": reply.name,
        "examples": reply.examples,
    }
    records: dict[str, Any] = {
        "hosted": ConfigRecord({split: list(numbers) for split, numbers in reply.hosted.items()}),
        REPLY: ConfigRecord(said),  # type: ignore[arg-type]
    }
    if reply.statistics:
        named = {str(client): params for client, params in reply.statistics.items()}
        records["statistics"], records["layout"] = pack(named)
    return seal(RecordDict(records))


def add_identity(content: RecordDict, identity: Identity) -> RecordDict:
    """Put into a written reply what the site computes with; return the same records."""
    text, reply = identity.to_text(), content[REPLY]
    assert isinstance(reply, ConfigRecord)
    reply[_IDENTITY] = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
    return seal(content)


def read_roll_call_reply(content: RecordDict) -> RollCallReply:
    """Read and check what `write_roll_call_reply` wrote.

    Raises:
        MessageError: With the reason, if anything is missing, malformed or impossible.
    """
    hosted = {
        split: _numbers(split, numbers)
        for split, numbers in _few(required(content, "hosted", ())).items()
    }
    clients = len(range(*hosted.get("train", (0, 0, 1))))
    refuse_oversized(content, _BODY, 4 * clients, clients, _STATISTIC_BYTES * clients)
    check_seal(content)
    said = required(content, REPLY, ("version", "engine", "name", "examples"))
    if said["version"] != __version__:
        raise MessageError(
            "VERSION",
            f"it runs fedmaml {shown([str(said['version'])])}, the server {__version__}: install "
            "the same version at both",
        )
    examples = said["examples"]
    if not isinstance(examples, int) or not 0 <= examples <= MAX_EXAMPLES:
        raise MessageError("WEIGHT", f"it declares {shown([str(examples)])} examples of a client")
    return RollCallReply(
        hosted,
        _statistics(content, range(*hosted.get("train", (0, 0, 1)))),
        _printable(said["engine"])[:MAX_TEXT],
        _name(said["name"]),
        examples,
        _read_identity(said.get(_IDENTITY)),
    )


def _read_identity(pieces: Any) -> Identity | None:
    if pieces is None:
        return None
    try:
        text = "".join(pieces)
        return identity_from_text(text)
    except (TypeError, ValueError) as error:
        raise MessageError(
            "KEYS", f"what it computes with is no text of at most {MAX_IDENTITY} characters"
        ) from error


def _few(hosted: ConfigRecord) -> ConfigRecord:
    if unknown := sorted(set(hosted) - set(SPLITS)):
        raise MessageError("KEYS", f"it hosts clients of unknown splits: {shown(unknown)}")
    return hosted


def _numbers(split: str, numbers: Any) -> tuple[int, int, int]:
    """Return (start, stop, step) of client numbers.

    Raises:
        MessageError: If they are no such numbers, or more than there can be.
    """
    whole = isinstance(numbers, list) and len(numbers) == 3
    if not whole or any(type(number) is not int for number in numbers):
        raise MessageError("KEYS", f"split {split!r} must be (start, stop, step)")
    start, stop, step = numbers
    if not (0 <= start <= stop <= MAX_CLIENT and 1 <= step <= MAX_NODES):
        raise MessageError(
            "CLIENTS",
            f"split {split!r} is ({start}, {stop}, {step}): allowed are 0 <= start <= stop <= 2^40 "
            f"and steps from 1 to {MAX_NODES}",
        )
    if len(range(start, stop, step)) > MAX_CLIENTS:
        raise MessageError("CLIENTS", f"split {split!r} has more than {MAX_CLIENTS} clients")
    return start, stop, step


def _statistics(content: RecordDict, clients: range) -> dict[int, Params]:
    """Return the statistics of training clients: float64, finite, not huge.

    Raises:
        MessageError: If they are anything else, or of other clients.
    """
    if "statistics" not in content:
        return {}
    arrays, layout = content["statistics"], required(content, "layout", ())
    assert isinstance(arrays, ArrayRecord)
    for name, array in arrays.items():
        if array.dtype != "float64":
            raise MessageError("DTYPE", f"statistics {shown([name])} are {array.dtype}")
    statistics = {int(client): own for client, own in unpack(arrays, layout).items()}
    if set(statistics) != set(clients):
        raise MessageError("CLIENTS", "its statistics are of other clients than those that train")
    for client, own in statistics.items():
        for name, value in own.items():
            sound = value.dtype == torch.float64 and bool((value.abs() <= MAX_STATISTIC).all())
            if not sound:  # NaN, too
                raise MessageError(
                    "NONFINITE",
                    f"statistics {shown([name])} of client {client} hold a number that is not "
                    f"finite, or above {MAX_STATISTIC:g}",
                )
    return statistics


def _name(name: Any) -> str:
    if not isinstance(name, str) or len(name) > MAX_NAME or name != _printable(name):
        raise MessageError(
            "KEYS", f"the name of a site has at most {MAX_NAME} printable characters"
        )
    return name


def _printable(text: Any) -> str:
    return "".join(letter for letter in str(text)[: 2 * MAX_TEXT] if letter.isprintable())
