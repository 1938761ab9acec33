"""One round of training as messages: what a node is asked, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedmaml.core.compression import NO_COMPRESSION, Compression
from fedmaml.core.costs import Computation
from fedmaml.core.errors import MessageError
from fedmaml.core.params import MetaParams, Params, sha256
from fedmaml.core.records import Rejection
from fedmaml.messages.arrays import pack, unpack
from fedmaml.messages.codes import compression_text, read_compression
from fedmaml.messages.records import (
    computation_lists,
    per_client,
    read_common,
    read_rejection,
    rejection_text,
    required,
    take_computations,
    with_common,
)
from fedmaml.messages.updates import Update, read_update, write_update

MOST_EXAMPLES = 1e9
"""A client that claims more examples than this is not believed."""

MOST_ENGINE_TEXT = 40
"""What a node says of its engine is cut there."""

Form = Literal["sum", "stack"]


@dataclass(frozen=True)
class TrainRequest:
    """What a node is asked for in one round.

    Attributes:
        round: From 1.
        clients: Numbers of the node's clients that take part.
        meta: Meta-parameters.
        form: "stack" if the server needs every client's update, "sum" if their sum will do.
        common: Totals of the scenario's statistics over all training clients.
        base: `fingerprint` of ``meta``; the reply repeats it.
        compression: How each client's update is to be compressed, whatever the form.
        seed: Determines what is random in it.
    """

    round: int
    clients: tuple[int, ...]
    meta: MetaParams
    form: Form = "sum"
    common: Params = field(default_factory=dict)
    base: str = ""
    compression: Compression = NO_COMPRESSION
    seed: int = 0

    @property
    def computed_form(self) -> Form:
        """What an engine must hand over: only single updates can be compressed."""
        return "stack" if self.compression.compressor() else self.form


@dataclass(frozen=True)
class TrainReply:
    """What a node answers.

    Attributes:
        clients: Clients whose updates are in, in the order of all lists below.
        weights: Their num-examples.
        metrics: name -> one value per client.
        update: group -> stacked updates ``(clients, entries)``, or their weighted `ExactSum`; on
            its way to the server also compressed updates, uint8 ``(clients, bytes)``.
        rejected: Clients that are not in, and why.
        round: Of the request.
        base: Of the request.
        computations: What each client's update took; empty if it is not told.
        engine: Name of the engine that computed the updates; empty if it is not told.
    """

    clients: tuple[int, ...]
    weights: tuple[float, ...]
    metrics: dict[str, list[float]]
    update: Update
    rejected: tuple[Rejection, ...]
    round: int
    base: str
    computations: tuple[Computation, ...] = ()
    engine: str = ""


class TrainRequestWriter:
    """Writes the requests of one round; the meta-parameters are packed once for all nodes.

    Args:
        request: What every node is asked, whatever its clients.
    """

    def __init__(self, request: TrainRequest) -> None:
        self._request = request
        self._meta, self._layout = pack(request.meta)
        self._compression = compression_text(request.compression, request.seed)
        self._common = pack({"common": request.common}) if request.common else None

    def write(self, clients: Sequence[int]) -> RecordDict:
        """Return the request to the node that hosts these clients."""
        asked = self._request
        request = ConfigRecord(
            {"round": asked.round, "clients": list(clients), "form": asked.form, "base": asked.base}
        )
        if self._compression:
            request["compression"] = self._compression
        return with_common(
            {"meta": self._meta, "layout": self._layout, "request": request}, self._common
        )


def fingerprint(meta: MetaParams) -> str:
    """Return what tells meta-parameters from those of another round."""
    return sha256(meta)[:16]


def read_train_request(content: RecordDict) -> TrainRequest:
    """Read what `TrainRequestWriter` wrote."""
    request = content.config_records["request"]
    compression, seed = read_compression(str(request.get("compression", "")))
    return TrainRequest(
        round=int(request["round"]),  # type: ignore[arg-type]
        clients=tuple(request["clients"]),  # type: ignore[arg-type]
        meta=unpack(content.array_records["meta"], content.config_records["layout"]),
        form=request["form"],  # type: ignore[arg-type]
        common=read_common(content),
        base=str(request["base"]),
        compression=compression,
        seed=seed,
    )


def write_train_reply(reply: TrainReply) -> RecordDict:
    """Return the records of a reply."""
    arrays, form = write_update(reply.update)
    metrics: dict[str, Sequence[float]] = {"num-examples": reply.weights, **reply.metrics}
    # Beside the metrics, as a record of its own costs a request of its own.
    metrics |= computation_lists(reply.computations)
    return RecordDict(
        {
            "update": arrays,
            "metrics": MetricRecord({name: list(values) for name, values in metrics.items()}),
            "reply": ConfigRecord(
                {
                    "round": reply.round,
                    "base": reply.base,
                    "form": form,
                    "clients": list(reply.clients),
                    "rejected": [rejection_text(rejection) for rejection in reply.rejected],
                    "engine": reply.engine,
                }
            ),
        }
    )


def read_train_reply(content: RecordDict, request: TrainRequest) -> TrainReply:
    """Read and check a node's answer.

    Args:
        content: As it came.
        request: What the node was asked; the answer must fit it.

    Raises:
        MessageError: With the reason, if anything does not fit.
    """
    reply = required(
        content.config_records, "reply", ("round", "base", "form", "clients", "rejected")
    )
    if reply["round"] != request.round:
        raise MessageError("STALE", f"reply of round {reply['round']} in round {request.round}")
    if reply["base"] != request.base:
        raise MessageError(
            "VERSION", f"computed from meta-parameters {reply['base']}, current are {request.base}"
        )
    clients = tuple(int(client) for client in reply["clients"])
    rejected = tuple(read_rejection(text) for text in reply["rejected"])
    spoken_for = [*clients, *(client for item in rejected for client in item.clients)]
    if sorted(spoken_for) != sorted(request.clients):
        raise MessageError(
            "CLIENTS",
            f"speaks for {len(spoken_for)} clients, asked were {len(request.clients)} "
            "(or others than these)",
        )
    metrics = dict(required(content.metric_records, "metrics", ("num-examples",)))
    weights = _read_weights(metrics.pop("num-examples"), len(clients))
    computations = take_computations(metrics, len(clients))
    return TrainReply(
        clients=clients,
        weights=weights,
        metrics={name: per_client(name, values, clients) for name, values in metrics.items()},
        update=read_update(
            required(content.array_records, "update", request.meta),
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
        engine=str(reply.get("engine", ""))[:MOST_ENGINE_TEXT],
    )


def _read_weights(values: Any, count: int) -> tuple[float, ...]:
    weights = values if isinstance(values, list) else [values]
    for weight in weights:
        if not 1 <= weight <= MOST_EXAMPLES or weight != int(weight):
            raise MessageError(
                "WEIGHT", f"num-examples is {weight!r}, allowed are whole numbers from 1 to 10^9"
            )
    if len(weights) != count:
        raise MessageError("WEIGHT", f"{len(weights)} values of num-examples for {count} clients")
    return tuple(float(weight) for weight in weights)
