"""Messages of an evaluation: metrics of clients before and after adaptation."""

from collections.abc import Collection, Sequence

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedmaml.core.errors import MessageError
from fedmaml.core.requests import EvaluateReply, EvaluateRequest
from fedmaml.messages.arrays import pack, unpack
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
    )


def write_evaluate_reply(reply: EvaluateReply) -> RecordDict:
    """Return the records of an evaluation reply."""
    rejected = [rejection_text(rejection) for rejection in reply.rejected]
    return RecordDict(
        {
            "metrics": MetricRecord(
                {
                    "num-clients": len(reply.clients),
                    **reply.values,
                    **computation_lists(reply.computations),
                    **counter_lists(reply.counted),
                }
            ),
            "reply": ConfigRecord({"clients": list(reply.clients), "rejected": rejected}),
        }
    )


def read_evaluate_reply(
    content: RecordDict,
    asked: Sequence[int],
    names: Collection[str],
    counters: Sequence[str] = (),
) -> EvaluateReply:
    """Read and check a node's evaluation.

    Args:
        content: As it came.
        asked: The clients of the request.
        names: Names of the values that it must have, ``"<column>:<stage>"``.
        counters: Names of the problem's counters.

    Raises:
        MessageError: With the reason, if it does not fit the request.
    """
    reply = required(content.config_records, "reply", ("clients", "rejected"))
    clients = tuple(int(client) for client in reply["clients"])
    rejected = tuple(read_rejection(text) for text in reply["rejected"])
    spoken_for = [*clients, *(client for item in rejected for client in item.clients)]
    if sorted(spoken_for) != sorted(asked):
        raise MessageError("CLIENTS", "the evaluation speaks for other clients than were asked")
    metrics = dict(required(content.metric_records, "metrics", ("num-clients",)))
    del metrics["num-clients"]
    computations = take_computations(metrics, len(clients))
    counted = take_counters(metrics, counters, len(clients))
    values = {name: per_client(name, values, clients) for name, values in metrics.items()}
    if clients and set(values) != set(names):
        wrong = sorted(set(values) ^ set(names))
        raise MessageError(
            "KEYS",
            f"the evaluation has other metrics than were asked for: {', '.join(wrong)[:200]}",
        )
    return EvaluateReply(clients, values, rejected, computations, counted)
