"""Messages of the roll call: which node hosts which clients."""

from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fedmaml.core.errors import MessageError
from fedmaml.core.params import Params
from fedmaml.messages.arrays import pack, unpack
from fedmaml.messages.records import required

MAX_TEXT = 1000
"""Longest text about its engine that is kept from a node."""


@dataclass(frozen=True)
class RollCallReply:
    """The clients of a node.

    Attributes:
        hosted: split -> (start, stop, step) of the client numbers.
        statistics: Training client -> its sums.
        engine: Which engine computes updates, and why; empty if not reported.
    """

    hosted: dict[str, tuple[int, int, int]]
    statistics: dict[int, Params]
    engine: str = ""


def write_roll_call_reply(reply: RollCallReply) -> RecordDict:
    """Return the records of a roll-call reply."""
    hosted = ConfigRecord({split: list(numbers) for split, numbers in reply.hosted.items()})
    records: dict[str, Any] = {"hosted": hosted}
    if reply.engine:
        records["node"] = ConfigRecord({"engine": reply.engine})
    if reply.statistics:
        named = {str(client): params for client, params in reply.statistics.items()}
        records["statistics"], records["layout"] = pack(named)
    return RecordDict(records)


def read_roll_call_reply(content: RecordDict) -> RollCallReply:
    """Read what `write_roll_call_reply` wrote.

    Raises:
        MessageError: If the record is missing or malformed.
    """
    hosted = {}
    for split, numbers in required(content.config_records, "hosted", ()).items():
        if not isinstance(numbers, list) or len(numbers) != 3:
            raise MessageError("KEYS", f"split {split!r} must be (start, stop, step)")
        hosted[split] = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
    statistics: dict[int, Params] = {}
    if "statistics" in content.array_records:
        named = unpack(content.array_records["statistics"], content.config_records["layout"])
        statistics = {int(client): params for client, params in named.items()}
    node = content.config_records.get("node", ConfigRecord())
    return RollCallReply(hosted, statistics, str(node.get("engine", ""))[:MAX_TEXT])
