"""Accumulates the updates of many clients into one reply: checked one by one, summed exactly."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedmaml.computing.costs import Costs
from fedmaml.computing.engines import Rows, Total
from fedmaml.core import aggregation
from fedmaml.core.aggregation import SPACINGS, ExactSum
from fedmaml.core.compression import code_bytes
from fedmaml.core.costs import Computation
from fedmaml.core.counters import Counted
from fedmaml.core.params import Params, count_entries, flatten
from fedmaml.core.records import Rejection
from fedmaml.core.requests import Form, TrainReply, TrainRequest


class Trained(NamedTuple):
    """The result of a request, or of one of its chunks.

    Attributes:
        reply: The updates.
        memories: Client -> new memory, of clients that keep one.
        costs: Costs of updates that are known by now.
    """

    reply: TrainReply
    memories: dict[int, Params]
    costs: Costs


def put_together(request: TrainRequest, parts: Iterable[Trained], costs: Costs) -> Trained:
    """Add up the parts of a request, one at a time."""
    sums: dict[str, ExactSum] = {}
    stacks: dict[str, list[Tensor]] = {group: [] for group in request.meta}
    clients: list[int] = []
    weights: list[float] = []
    metrics: dict[str, list[float]] = {}
    computations: list[Computation] = []
    engines: Counter[str] = Counter()
    counted: list[Counted] = []
    rejected: list[Rejection] = []
    memories: dict[int, Params] = {}
    for part in parts:
        reply = part.reply
        for group, value in reply.update.items():
            if isinstance(value, Tensor):
                stacks[group].append(value)
            else:
                sums[group] = sums[group] + value if group in sums else value
        clients += reply.clients
        weights += reply.weights
        computations += reply.computations
        engines.update(reply.engines)
        counted += reply.counted
        rejected += reply.rejected
        for name, values in reply.metrics.items():
            metrics.setdefault(name, []).extend(values)
        memories |= part.memories
        costs |= part.costs
    reply = TrainReply(
        clients=tuple(clients),
        weights=tuple(weights),
        metrics=metrics,
        update=sums or _stacked(request, stacks),
        rejected=tuple(rejected),
        round=request.round,
        base=request.base,
        computations=tuple(computations) if len(computations) == len(clients) else (),
        engines=engines,
        counted=tuple(counted),
    )
    return Trained(reply, memories, costs)


class Accumulator:
    """Accumulates the updates of a chunk's clients for one reply."""

    def __init__(self, request: TrainRequest) -> None:
        self._request = request
        self._sums: dict[str, ExactSum] = {}
        self._stacks: dict[str, list[Tensor]] = {group: [] for group in request.meta}
        self.clients: list[int] = []
        self._weights: list[float] = []
        self._metrics: dict[str, list[float]] = {}
        self.rejected: list[Rejection] = []
        self._form = request.form

    def add_total(self, part: Total) -> None:
        """Add a sum."""
        for group, value in part.sums.items():
            self._add_sum(group, value)
        self._note(part.clients, part.weight, part.metrics)

    def add(self, part: Rows) -> list[int]:
        """Add the sound updates; return the positions of their clients."""
        clients, results = part.clients, part.results
        flat = {group: flatten(params, batch_axes=1) for group, params in results.update.items()}
        usable = torch.ones(len(clients), dtype=torch.bool, device=results.weight.device)
        for group, vectors in flat.items():
            ranged = aggregation.in_range(vectors, results.weight)
            for position in (usable & ~ranged).nonzero()[:, 0].tolist():
                after = "" if part.codes is None else " after compression"
                self._reject(clients[position], group, vectors[position], after)
            usable &= ranged
        sound = usable.nonzero()[:, 0].tolist()

        def of_sound(values: Tensor) -> Tensor:
            return values if len(sound) == len(clients) else values[usable]

        for group, vectors in flat.items():
            if self._form == "stack":
                rows = vectors if part.codes is None else part.codes[group]
                self._stacks[group].append(of_sound(rows).cpu())
            elif sound:
                total = aggregation.exact_sum(of_sound(vectors), of_sound(results.weight))
                self._add_sum(group, replace(total, limbs=total.limbs.cpu()))
        self._note(
            [clients[position] for position in sound],
            of_sound(results.weight),
            {name: of_sound(values) for name, values in results.metrics.items()},
        )
        return sound

    def _add_sum(self, group: str, value: ExactSum) -> None:
        self._sums[group] = self._sums[group] + value if group in self._sums else value

    def _note(
        self,
        clients: Sequence[int],
        weights: Tensor,
        metrics: Mapping[str, Tensor],
    ) -> None:
        self.clients += clients
        self._weights += weights.tolist()
        for name, values in metrics.items():
            self._metrics.setdefault(name, []).extend(values.tolist())

    def _reject(self, client: int, group: str, vector: Tensor, after: str) -> None:
        finite = bool(vector.isfinite().all())
        reason, what = (
            ("RANGE", "too large to be a step") if finite else ("NONFINITE", "not finite")
        )
        detail = (
            f"the update of group {group!r} is {what}{after}: lower inner.lr, or outer.lr if the "
            "loss before adaptation is huge"
        )
        self.rejected.append(Rejection(reason, detail, "", (client,)))

    def reply(
        self,
        engines: Mapping[str, int],
        computations: tuple[Computation, ...],
        counted: Mapping[int, Counted],
    ) -> TrainReply:
        """Return the reply: accumulated updates, engine, costs, and counters of the examples."""
        update: dict[str, Tensor] | dict[str, ExactSum]
        if self._form == "sum" and self._sums:
            update = self._sums
        else:
            update = _stacked(self._request, self._stacks)
        return TrainReply(
            clients=tuple(self.clients),
            weights=tuple(self._weights),
            metrics=self._metrics,
            update=update,
            rejected=tuple(self.rejected),
            round=self._request.round,
            base=self._request.base,
            computations=computations,
            engines=engines,
            counted=tuple(counted[client] for client in self.clients) if counted else (),
        )


def smaller_form(request: TrainRequest) -> Form:
    """Return "stack" if the request wants it, or if it is no larger on the wire than a sum."""
    sum_bytes = len(SPACINGS) * 8 * count_entries(request.meta)
    stack_bytes = len(request.clients) * request.compression.payload_bytes(request.meta)
    return "stack" if request.form == "stack" or stack_bytes <= sum_bytes else "sum"


def _stacked(request: TrainRequest, stacks: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    return {
        group: torch.cat(parts) if parts else _no_updates(request, group)
        for group, parts in stacks.items()
    }


def _no_updates(request: TrainRequest, group: str) -> Tensor:
    flat = flatten(request.meta[group])
    compressor = request.compression.compressor()
    if compressor is None:
        return torch.zeros(0, len(flat), dtype=flat.dtype)
    return torch.zeros(0, code_bytes(compressor.layout(len(flat), flat.dtype)), dtype=torch.uint8)
