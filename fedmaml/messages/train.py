"""One round of training as messages: what a node is asked, what it answers, and what is refused."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedmaml.core.aggregation import (
    LIMIT,
    SPACINGS,
    ExactSum,
    empty_sum,
    exact_sum,
    in_range,
)
from fedmaml.core.compression import NO_COMPRESSION, Compression, Compressor, code_bytes
from fedmaml.core.costs import Computation
from fedmaml.core.errors import MessageError
from fedmaml.core.params import MetaParams, Params, count_entries, sha256
from fedmaml.core.records import Rejection
from fedmaml.messages.arrays import pack, to_array, unpack
from fedmaml.messages.codes import compression_text, decoded, read_compression
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

MOST_EXAMPLES = 1e9
"""A client that claims more examples than this is not believed."""

MOST_ENGINE_TEXT = 40
"""What a node says of its engine is cut there."""

Form = Literal["sum", "stack"]

_GRID = torch.tensor(SPACINGS, dtype=torch.float64)[:, None]
_MOST_DECODED_ENTRIES = 2**20  # of compressed updates at a time
_HEADER_BYTES = 4096  # an .npy header is 128 bytes, more for odd layouts


@dataclass(frozen=True)
class TrainRequest:
    """What a node is asked for in one round.

    Attributes:
        round: From 1.
        clients: Numbers of the node's clients that take part.
        meta: Meta-parameters.
        form: "stack" if the server needs every client's update, "sum" if their sum will do.
        common: Totals of the scenario's statistics over all training clients.
        base: Fingerprint of ``meta``; the reply repeats it.
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
    update: dict[str, Tensor] | dict[str, ExactSum]
    rejected: tuple[Rejection, ...]
    round: int
    base: str
    computations: tuple[Computation, ...] = ()
    engine: str = ""


class TrainRequestWriter:
    """Writes the requests of one round; the meta-parameters are packed once for all nodes."""

    def __init__(
        self,
        round: int,
        meta: MetaParams,
        form: Form,
        common: Params,
        compression: Compression = NO_COMPRESSION,
        seed: int = 0,
    ) -> None:
        self._meta, self._layout = pack(meta)
        self._compression = compression_text(compression, seed)
        self._common = pack({"common": common}) if common else None
        self._round, self._form = round, form
        self.base = sha256(meta)[:16]

    def write(self, clients: Sequence[int]) -> RecordDict:
        """Return the request to the node that hosts these clients."""
        request = ConfigRecord(
            {"round": self._round, "clients": list(clients), "form": self._form, "base": self.base}
        )
        if self._compression:
            request["compression"] = self._compression
        return with_common(
            {"meta": self._meta, "layout": self._layout, "request": request}, self._common
        )


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
    arrays, form = {}, "stack"
    for group, value in reply.update.items():
        if isinstance(value, ExactSum):
            form = "sum"
        elif value.dtype == torch.uint8:
            form = "compressed"
        arrays[group] = to_array(value.limbs if isinstance(value, ExactSum) else value)
    metrics: dict[str, Sequence[float]] = {"num-examples": reply.weights, **reply.metrics}
    # Beside the metrics, as a record of its own costs a request of its own.
    metrics |= computation_lists(reply.computations)
    return RecordDict(
        {
            "update": ArrayRecord(arrays),
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
        update=_read_update(content, str(reply["form"]), weights, request),
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


def _read_update(
    content: RecordDict, form: str, weights: tuple[float, ...], request: TrainRequest
) -> dict[str, Tensor] | dict[str, ExactSum]:
    arrays = required(content.array_records, "update", request.meta)
    if extra := sorted(set(arrays) - set(request.meta)):
        raise MessageError("KEYS", f"unknown arrays {extra} in the update")
    compressor = request.compression.compressor()
    allowed = ["stack" if compressor is None else "compressed"]
    allowed += ["sum"] if request.form == "sum" else []
    if form not in allowed:
        raise MessageError("KEYS", f"the update is a {form!r}, asked was a {' or '.join(allowed)}")
    stacks: dict[str, Tensor] = {}
    sums: dict[str, ExactSum] = {}
    for group, params in request.meta.items():
        entries = count_entries({group: params})
        if form == "sum":
            value = _tensor(group, arrays[group], (len(SPACINGS), entries), torch.float64)
            sums[group] = ExactSum(value, sum(weights), len(weights))
            _refuse_unsound(group, value, _sound_sum(sums[group]))
        else:
            dtype = next(iter(params.values())).dtype
            exactly = torch.tensor(weights, dtype=torch.float64)
            if compressor is None:
                value = _tensor(group, arrays[group], (len(weights), entries), dtype)
                _refuse_unsound(group, value, bool(in_range(value, exactly).all()))
                stacks[group] = value
                continue
            row = code_bytes(compressor.layout(entries, dtype))
            codes = _tensor(group, arrays[group], (len(weights), row), torch.uint8)
            parts = _decoded_by_parts(group, codes, exactly, compressor, entries, dtype)
            if request.form == "stack":
                blocks = [part for part, _ in parts]
                stacks[group] = torch.cat([torch.zeros(0, entries, dtype=dtype), *blocks])
            else:  # never hold them all: a few bytes may stand for many numbers
                sums[group] = _added(parts, entries)
    return sums or stacks


def _refuse_unsound(group: str, value: Tensor, sound: bool) -> None:
    if sound:
        return
    if not bool(value.isfinite().all()):
        raise MessageError("NONFINITE", f"the update of group {group!r} holds NaN or infinity")
    raise MessageError(
        "RANGE",
        f"the update of group {group!r} has entries too large to be a step "
        f"(num-examples times entry must stay below {LIMIT:.1e})",
    )


def _decoded_by_parts(
    group: str,
    codes: Tensor,
    weights: Tensor,
    compressor: Compressor,
    entries: int,
    dtype: torch.dtype,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the updates of some clients, ``(clients, entries)``, and their weights."""
    size = max(1, _MOST_DECODED_ENTRIES // entries)
    for first in range(0, len(codes), size):
        weight = weights[first : first + size]
        value = decoded(group, codes[first : first + size], compressor, entries, dtype)
        _refuse_unsound(group, value, bool(in_range(value, weight).all()))
        yield value, weight


def _added(parts: Iterator[tuple[Tensor, Tensor]], entries: int) -> ExactSum:
    total = empty_sum(entries)
    for value, weight in parts:
        total = total + exact_sum(value, weight)
    return total


def _sound_sum(value: ExactSum) -> bool:
    """Tell whether limbs are whole multiples of their grids, and not larger than possible."""
    multiples = value.limbs / _GRID
    sound = (multiples == multiples.round()) & (multiples.abs() <= value.terms * 2.0**31)
    return bool(sound.all())


def _tensor(group: str, array: Array, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Read an array of a declared shape and type, without trusting the declaration."""
    name = str(dtype).removeprefix("torch.")
    if tuple(array.shape) != shape:
        raise MessageError(
            "SHAPE", f"the array of group {group!r} is {tuple(array.shape)}, expected {shape}"
        )
    if array.dtype != name:
        raise MessageError(
            "DTYPE", f"the array of group {group!r} is {array.dtype}, expected {name}"
        )
    most = math.prod(shape) * dtype.itemsize + _HEADER_BYTES
    if len(array.data) > most:
        raise MessageError("SHAPE", f"the array of group {group!r} has more bytes than it declares")
    value = torch.from_numpy(array.numpy())
    if tuple(value.shape) != shape or value.dtype != dtype:
        raise MessageError("SHAPE", f"the array of group {group!r} is not what it declares to be")
    return value
