"""Parts that requests and replies share."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedmaml.core.costs import Computation
from fedmaml.core.counters import Counted, Units
from fedmaml.core.errors import MessageError
from fedmaml.core.params import Params
from fedmaml.core.records import Rejection
from fedmaml.core.requests import NEVER, Used
from fedmaml.messages.arrays import unpack

MAX_COST = 2**62
"""Claims of more operations, bytes or units than this are refused."""

_USED_ROUNDS, _USED_BASES = "used-rounds", "used-bases"
_NO_BASE = "-" * 16

MAX_DETAIL = 500
"""Characters of a node's own words that are kept; they go to logs and pages."""


def with_shared_statistics(
    records: dict[str, Any], shared_statistics: tuple[ArrayRecord, ConfigRecord] | None
) -> RecordDict:
    """Return the records of a request, with the scenario's totals where there are any."""
    if shared_statistics is not None:
        records["shared_statistics"], records["shared_statistics-layout"] = shared_statistics
    return RecordDict(records)


def read_shared_statistics(content: RecordDict) -> Params:
    """Return the scenario's totals; {} where there are none."""
    if "shared_statistics" not in content.array_records:
        return {}
    arrays, layout = (
        content.array_records["shared_statistics"],
        content.config_records["shared_statistics-layout"],
    )
    return unpack(arrays, layout)["shared_statistics"]


def used_lists(used: Mapping[int, Used], clients: Sequence[int]) -> dict[str, Any]:
    """Return the last used updates of some clients, in their order, as entries of a request."""
    of_clients = [used.get(client, NEVER) for client in clients]
    return {
        _USED_ROUNDS: [each.round for each in of_clients],
        # Of one length, so that all messages to a number of clients have one shape.
        _USED_BASES: [each.base or _NO_BASE for each in of_clients],
    }


def read_used(request: ConfigRecord) -> dict[int, Used]:
    """Undo `used_lists`; {} if a request has no such entries."""
    if _USED_ROUNDS not in request:
        return {}
    columns: Any = request["clients"], request[_USED_ROUNDS], request[_USED_BASES]
    rows = zip(*columns, strict=True)
    return {client: Used(round, base) for client, round, base in rows if round}


def required(records: Mapping[str, Any], name: str, keys: Any) -> Any:
    """Return a record that must be there, with keys that must be in it."""
    if name not in records:
        raise MessageError("KEYS", f"record {name!r} is missing")
    if missing := sorted(set(keys) - set(records[name])):
        raise MessageError("KEYS", f"record {name!r} lacks {missing}")
    return records[name]


def per_client(name: str, values: Any, clients: Sequence[int]) -> list[float]:
    """Return a metric that must have one value per client."""
    if not isinstance(values, list) or len(values) != len(clients):
        raise MessageError("KEYS", f"metric {name!r} has not one value for each of the clients")
    return [float(value) for value in values]


def computation_lists(computations: Sequence[Computation]) -> dict[str, list[int]]:
    """Return the costs of clients as metrics; {} if they are not reported."""
    if not computations:
        return {}
    return {
        "flops": [computation.flops for computation in computations],
        "peak-bytes": [computation.peak_bytes for computation in computations],
    }


def take_computations(metrics: dict[str, Any], count: int) -> tuple[Computation, ...]:
    """Remove the reported costs from the metrics and return them; a reply may lack them."""
    flops, peak_bytes = metrics.pop("flops", None), metrics.pop("peak-bytes", None)
    if flops is None and peak_bytes is None:
        return ()
    _check_claims("flops", flops, count)
    _check_claims("peak-bytes", peak_bytes, count)
    return tuple(map(Computation, flops, peak_bytes))


def counter_lists(counted: Sequence[Counted]) -> dict[str, list[int]]:
    """Return the units of clients' examples as metrics; {} if the problem has no counters."""
    lists: dict[str, list[int]] = {}
    for each in counted:
        for name, units in each.items():
            for key, value in zip(_counter_keys(name), (units.support, units.query), strict=True):
                lists.setdefault(key, []).append(int(value))
    return lists


def take_counters(metrics: dict[str, Any], names: Sequence[str], count: int) -> tuple[Counted, ...]:
    """Remove the reported units from the metrics and return them; a reply must have them.

    Args:
        metrics: Of a reply.
        names: The problem's counters.
        count: Number of clients in the reply.
    """
    if not names or not count:
        return ()
    columns: dict[str, list[Units]] = {}
    for name in names:
        keys = _counter_keys(name)
        support, query = (metrics.pop(key, None) for key in keys)
        _check_claims(keys[0], support, count)
        _check_claims(keys[1], query, count)
        columns[name] = list(map(Units, support, query))
    return tuple({name: columns[name][i] for name in names} for i in range(count))


def _counter_keys(name: str) -> tuple[str, str]:
    return f"units:support:{name}", f"units:query:{name}"


def _check_claims(name: str, values: Any, count: int) -> None:
    """Refuse values that are not whole numbers, one for each client."""
    if not isinstance(values, list) or len(values) != count:
        raise MessageError("COST", f"{name} has not one value for each of the clients")
    for value in values:
        if not isinstance(value, int) or not 0 <= value <= MAX_COST:
            raise MessageError(
                "COST", f"{name} is {value!r}, allowed are whole numbers from 0 to 2^62"
            )


def rejection_text(rejection: Rejection) -> str:
    """Return a rejection as one string."""
    return json.dumps([rejection.reason, rejection.detail, list(rejection.clients)])


def read_rejection(text: str) -> Rejection:
    """Undo `rejection_text`."""
    try:
        reason, detail, clients = json.loads(text)
        numbers = tuple(int(client) for client in clients)
        words = "".join(letter for letter in str(detail)[:MAX_DETAIL] if letter.isprintable())
        rejection = Rejection(str(reason), words, "", numbers)
    except (ValueError, TypeError) as error:
        raise MessageError("KEYS", "a rejection in the reply cannot be read") from error
    if not numbers:
        raise MessageError("KEYS", "a rejection in the reply names no client")
    return rejection
