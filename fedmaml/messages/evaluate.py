"""Messages of an evaluation: metrics of clients before and after adaptation."""

from collections.abc import Mapping, Sequence

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedmaml.core.errors import MessageError
from fedmaml.core.metrics import Range
from fedmaml.core.requests import EvaluateReply, EvaluateRequest
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

_BODY: Body = {"metrics": MetricRecord, REPLY: ConfigRecord}
_OWN_COLUMNS = 3  # num-clients, and what a client computed


def write_evaluate_request(request: EvaluateRequest) -> RecordDict:
    """Return the records of an evaluation request."""
    meta, layout = pack(request.meta)
    config = ConfigRecord(
        {
            "round": request.round,
            "split": request.split,
            "clients": list(request.clients),
            "steps": list(request.steps),
            "shots": list(request.shots),
            "seed": str(request.seed),
            "base": request.base,
        }
    )
    if request.used:
        config.update(used_lists(request.used, request.clients))
    shared_statistics = (
        pack({"shared_statistics": request.shared_statistics})
        if request.shared_statistics
        else None
    )
    return with_shared_statistics(
        {"meta": meta, "layout": layout, "request": config}, shared_statistics
    )


def read_evaluate_request(content: RecordDict) -> EvaluateRequest:
    """Read what `write_evaluate_request` wrote."""
    request = content.config_records["request"]
    return EvaluateRequest(
        round=int(request["round"]),  # type: ignore[arg-type]
        split=str(request["split"]),
        clients=tuple(request["clients"]),  # type: ignore[arg-type]
        meta=unpack(content.array_records["meta"], content.config_records["layout"]),
        steps=tuple(request["steps"]),  # type: ignore[arg-type]
        shots=tuple(request["shots"]),  # type: ignore[arg-type]
        shared_statistics=read_shared_statistics(content),
        seed=int(str(request["seed"])),
        used=read_used(request),
        base=str(request["base"]),
    )


def write_evaluate_reply(reply: EvaluateReply, request: EvaluateRequest) -> RecordDict:
    """Return the records of the reply to a request."""
    rejected = [rejection_text(rejection) for rejection in reply.rejected]
    records = RecordDict(
        {
            "metrics": MetricRecord(
                {
                    "num-clients": len(reply.clients),
                    **reply.values,
                    **computation_lists(reply.computations),
                    **counter_lists(reply.counted),
                }
            ),
            REPLY: ConfigRecord(
                {**fitting(request), "clients": list(reply.clients), "rejected": rejected}
            ),
        }
    )
    return seal(records)


def read_evaluate_reply(
    content: RecordDict,
    request: EvaluateRequest,
    ranges: Mapping[str, Range],
    counters: Sequence[str] = (),
) -> EvaluateReply:
    """Read and check a node's evaluation.

    Args:
        content: As it came.
        request: The request to the node; the reply must fit it.
        ranges: Names of the values that it must have, ``"<column>:<stage>"``, and their ranges.
        counters: Names of the problem's counters.

    Raises:
        MessageError: With the reason, if it does not fit the request.
    """
    columns = _OWN_COLUMNS + len(ranges) + 2 * len(counters)
    refuse_oversized(content, _BODY, columns, len(request.clients))
    check_seal(content)
    reply = required(content, REPLY, ("round", "base", "clients", "rejected"))
    clients = tuple(int(client) for client in reply["clients"])
    rejected = tuple(read_rejection(text) for text in reply["rejected"])
    check_fit(reply, clients, rejected, request)
    metrics = dict(required(content, "metrics", ("num-clients",)))
    del metrics["num-clients"]
    computations = take_computations(metrics, len(clients))
    counted = take_counters(metrics, counters, len(clients))
    if clients and set(metrics) != set(ranges):
        raise MessageError(
            "KEYS",
            "the evaluation has other metrics than were asked for: "
            f"{shown(sorted(set(metrics) ^ set(ranges)))}",
        )
    values = {name: per_client(name, column, clients) for name, column in metrics.items()}
    for name, column in values.items():
        if wrong := [value for value in column if value not in ranges[name]]:
            raise MessageError(
                "METRIC", f"{name} is {wrong[0]:g} at {len(wrong)} clients, {ranges[name]}"
            )
    return EvaluateReply(clients, values, rejected, computations, counted)
