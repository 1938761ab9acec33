"""Messages of one round of training: requests to nodes and their replies."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmaml.core.errors import MessageError
from fedmaml.core.params import MetaParams, count_entries, sha256
from fedmaml.core.requests import MAX_EXAMPLES, TRAINING_METRICS, TrainReply, TrainRequest
from fedmaml.messages.arrays import pack, unpack
from fedmaml.messages.checks import (
    REPLY,
    Body,
    check_fit,
    check_seal,
    fitting,
    refuse_oversized,
    seal,
    shown,
)
from fedmaml.messages.codes import compression_text, read_compression
from fedmaml.messages.handed import Handed
from fedmaml.messages.records import (
    computation_lists,
    counter_lists,
    per_client,
    read_rejection,
    read_shared_statistics,
    read_used,
    rejection_text,
    required,
    take_computations,
    take_counters,
    used_lists,
    with_shared_statistics,
)
from fedmaml.messages.updates import max_bytes, read_update, write_update

_BODY: Body = {"update": ArrayRecord, "metrics": MetricRecord, REPLY: ConfigRecord}
_OWN_COLUMNS = 3  # num-examples, and what a client computed

MAX_ENGINE_TEXT = 40
"""Longest name of an engine that is kept from a reply."""

MAX_ENGINES_TEXT = 1000
"""Longest text about several engines that is read."""


class TrainRequestWriter:
    """Writes the requests of one round; the meta-parameters are packed once for all nodes.

    Args:
        request: The part of the request that is the same for all nodes.
    """

    def __init__(self, request: TrainRequest) -> None:
        self._request = request
        self._meta, self._layout = pack(request.meta)
        self._compression = compression_text(request.compression)
        self._shared_statistics = (
            pack({"shared_statistics": request.shared_statistics})
            if request.shared_statistics
            else None
        )

    def write(self, clients: Sequence[int]) -> RecordDict:
        """Return the request to the node that hosts these clients."""
        asked = self._request
        request = ConfigRecord(
            {
                "round": asked.round,
                "clients": list(clients),
                "form": asked.form,
                "base": asked.base,
                "seed": str(asked.seed),
            }
        )
        if asked.used:
            request.update(used_lists(asked.used, clients))
        if self._compression:
            request["compression"] = self._compression
        return with_shared_statistics(
            {"meta": self._meta, "layout": self._layout, "request": request},
            self._shared_statistics,
        )


def fingerprint(meta: MetaParams) -> str:
    """Return a fingerprint that differs for the meta-parameters of another round."""
    return sha256(meta)[:16]


def read_train_request(content: RecordDict) -> TrainRequest:
    """Read what `TrainRequestWriter` wrote."""
    if isinstance(content, Handed) and isinstance(content.value, TrainRequest):
        return content.value
    request = content.config_records["request"]
    return TrainRequest(
        round=int(request["round"]),  # type: ignore[arg-type]
        clients=tuple(request["clients"]),  # type: ignore[arg-type]
        meta=unpack(content.array_records["meta"], content.config_records["layout"]),
        form=request["form"],  # type: ignore[arg-type]
        shared_statistics=read_shared_statistics(content),
        base=str(request["base"]),
        compression=read_compression(str(request.get("compression", ""))),
        seed=int(str(request["seed"])),
        used=read_used(request),
    )


def write_train_reply(reply: TrainReply) -> RecordDict:
    """Return the records of a reply."""
    arrays, form = write_update(reply.update)
    metrics: dict[str, Sequence[float]] = {"num-examples": reply.weights, **reply.metrics}
    # Beside the metrics, as a record of its own costs a request of its own.
    metrics |= computation_lists(reply.computations) | counter_lists(reply.counted)
    records: dict[str, Any] = {
        "update": arrays,
        "metrics": MetricRecord({name: list(values) for name, values in metrics.items()}),
        REPLY: ConfigRecord(
            {
                **fitting(reply),
                "form": form,
                "clients": list(reply.clients),
                "rejected": [rejection_text(rejection) for rejection in reply.rejected],
                "engine": _engines_text(reply.engines),
            }
        ),
    }
    return seal(RecordDict(records))


def read_train_reply(
    content: RecordDict,
    request: TrainRequest,
    counters: Sequence[str] = (),
    metrics: Collection[str] = TRAINING_METRICS,
) -> TrainReply:
    """Read and check a node's reply.

    Args:
        content: As it came.
        request: The request to the node; the reply must fit it.
        counters: Names of the problem's counters.
        metrics: Names of the metrics that it may have.

    Raises:
        MessageError: With the reason, if anything does not fit.
    """
    if isinstance(content, Handed) and isinstance(content.value, TrainReply):
        return _fitting(content.value, request)
    columns = _OWN_COLUMNS + len(metrics) + 2 * len(counters)
    clients_asked, entries = len(request.clients), count_entries(request.meta)
    refuse_oversized(
        content, _BODY, max(columns, len(request.meta)), clients_asked,
        array_bytes=max_bytes(clients_asked, entries, len(request.meta)),
    )  # fmt: skip
    check_seal(content)
    reply = required(content, REPLY, ("round", "base", "form", "clients", "rejected"))
    clients = tuple(int(client) for client in reply["clients"])
    rejected = tuple(read_rejection(text) for text in reply["rejected"])
    check_fit(reply, clients, rejected, request)
    columns_sent = dict(required(content, "metrics", ("num-examples",)))
    weights = _read_weights(columns_sent.pop("num-examples"), len(clients), request.max_examples)
    computations = take_computations(columns_sent, len(clients))
    counted = take_counters(columns_sent, counters, len(clients))
    if unknown := sorted(set(columns_sent) - set(metrics)):
        raise MessageError(
            "KEYS",
            f"the reply has other metrics than the strategy declares: {shown(unknown)} "
            "(Facts.metrics names them)",
        )
    return TrainReply(
        clients=clients,
        weights=weights,
        metrics={n: per_client(n, values, clients) for n, values in columns_sent.items()},
        update=read_update(
            required(content, "update", request.meta),
            str(reply["form"]),
            weights,
            meta=request.meta,
            summed=request.form == "sum",
            compression=request.compression,
        ),
        rejected=rejected,
        round=request.round,
        base=request.base,
        computations=computations,
        engines=_read_engines(str(reply.get("engine", "")), len(clients)),
        counted=counted,
    )


def _fitting(reply: TrainReply, request: TrainRequest) -> TrainReply:
    """Return a reply of this process, which computed and checked the updates itself."""
    check_fit(fitting(reply), reply.clients, reply.rejected, request)
    return reply


def _engines_text(engines: Mapping[str, int]) -> str:
    """Return the name of the one engine that computed all, else names and numbers."""
    return next(iter(engines), "") if len(engines) < 2 else json.dumps(dict(engines))


def _read_engines(text: str, clients: int) -> dict[str, int]:
    """Undo `_engines_text`; {} if it says nothing, or not of all clients."""
    if not text.startswith("{"):
        return {text[:MAX_ENGINE_TEXT]: clients} if text and clients else {}
    if len(text) > MAX_ENGINES_TEXT:
        return {}
    try:
        engines = {name[:MAX_ENGINE_TEXT]: int(count) for name, count in json.loads(text).items()}
    except (ValueError, TypeError, OverflowError):
        return {}
    sound = sum(engines.values()) == clients and min(engines.values(), default=0) > 0
    return engines if sound else {}


def _read_weights(values: Any, count: int, most: int) -> tuple[float, ...]:
    weights = values if isinstance(values, list) else [values]
    for weight in weights:
        if most < weight <= MAX_EXAMPLES:
            raise MessageError(
                "WEIGHT", f"num-examples is {weight:g}, its node declared at most {most}"
            )
        if not 1 <= weight <= MAX_EXAMPLES or weight != int(weight):
            raise MessageError(
                "WEIGHT", f"num-examples is {weight!r}, allowed are whole numbers from 1 to 10^9"
            )
    if len(weights) != count:
        raise MessageError("WEIGHT", f"{len(weights)} values of num-examples for {count} clients")
    return tuple(float(weight) for weight in weights)
