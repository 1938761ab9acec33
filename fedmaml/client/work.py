"""What a node computes for one request, as functions: tasks in, updates or metrics out.

A node's clients are cut into chunks of ``client_batch``; each chunk goes through an engine
(`fedmaml.client.engines`) by itself, here or in a worker process (`fedmaml.client.workers`), and
the parts add up to the reply. Which clients share a chunk depends on the request alone and sums are
exact, so where a chunk is computed changes no bit. A client that fails or diverges is left out with
a reason and never harms the others.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from fedmaml.client.costs import Costs, cost_of_update
from fedmaml.client.engines import (
    LOOP,
    NOTHING_EXPECTED,
    Engine,
    Expected,
    Job,
    Memories,
    Rows,
    Total,
    plan,
)
from fedmaml.client.engines.base import batch_for_weights, select
from fedmaml.client.engines.generic import apply
from fedmaml.core import aggregation
from fedmaml.core.aggregation import SPACINGS, ExactSum
from fedmaml.core.costs import Computation
from fedmaml.core.errors import FedmamlError
from fedmaml.core.learner import Learner
from fedmaml.core.params import MetaParams, Params, device_of, flatten, map_params
from fedmaml.core.records import Rejection
from fedmaml.core.tasks import Task, TaskGroup, cast
from fedmaml.messages.evaluate import EvaluateReply, EvaluateRequest
from fedmaml.messages.train import Form, TrainReply, TrainRequest
from fedmaml.strategies.base import (
    MetaStrategy,
    adaptation_steps,
    with_adaptation_steps,
)

R = TypeVar("R")

logger = logging.getLogger("fedmaml")

_one_by_one: WeakSet[nn.Module] = WeakSet()

Tasks = Callable[[Sequence[int]], list[TaskGroup]]
"""Client numbers -> their tasks of this round, in groups of equal shape."""

Chunk = tuple[int, ...]
"""Clients that are computed together."""


class Trained(NamedTuple):
    """What came of a request, or of a chunk of one.

    Attributes:
        reply: The updates.
        memories: The new memories of the clients whose updates are in it.
        costs: What updates take, as far as it is known by now.
    """

    reply: TrainReply
    memories: dict[int, Params]
    costs: Costs


class Elsewhere(Protocol):
    """Whoever computes chunks, e.g. worker processes; results come in the order of the chunks."""

    def train(
        self,
        engine: str,
        request: TrainRequest,
        chunks: Sequence[Chunk],
        memories: Memories,
        costs: Costs,
    ) -> Iterable[Trained]:
        """Compute `train_chunk` of every chunk of a request."""

    def evaluate(
        self, request: EvaluateRequest, chunks: Sequence[Chunk], memories: Memories
    ) -> Iterable[EvaluateReply]:
        """Compute `evaluate_chunk` of every chunk of a request."""


def train(
    strategy: MetaStrategy,
    learner: Learner,
    request: TrainRequest,
    tasks: Tasks,
    memories: Memories,
    client_batch: int = 0,
    known_costs: Costs | None = None,
    engine: str = "auto",
    expected: Expected = NOTHING_EXPECTED,
    elsewhere: Elsewhere | None = None,
) -> Trained:
    """Compute the updates of the request's clients.

    Args:
        strategy: The algorithm.
        learner: From its ``build``.
        request: What the server asked.
        tasks: Where the tasks come from.
        memories: Client -> what it keeps; must hold every client of the request.
        client_batch: Clients per computation; 0: what the engine does best; 1: one by one.
        known_costs: What updates take, as measured before.
        engine: Name of an engine, or "auto".
        expected: How much more of the same is to come.
        elsewhere: Computes chunks if there are several; None: here, one after the other.
    """
    request = replace(request, form=smaller_form(request))
    wanted = "loop" if client_batch == 1 else engine
    job = Job(strategy, learner, request.meta, request.form, expected)
    chosen = plan(wanted, job)
    # One by one is the engine's business: however many share a chunk, `loop` computes each alone.
    batch = client_batch if client_batch > 1 else chosen.engine.client_batch(job)
    chunks = cut(request.clients, batch)
    costs = dict(known_costs or {})
    parts: Iterable[Trained]
    if elsewhere is not None and len(chunks) > 1:
        parts = elsewhere.train(wanted, request, chunks, memories, costs)
    else:
        parts = (
            train_chunk(job, wanted, replace(request, clients=chunk), tasks, memories, costs)
            for chunk in chunks
        )
    return _put_together(request, parts, chosen.engine.name, costs)


def train_chunk(
    job: Job, engine: str, request: TrainRequest, tasks: Tasks, memories: Memories, costs: Costs
) -> Trained:
    """Compute the updates of clients that share a computation.

    Args:
        job: What they have in common.
        engine: Name of an engine, or "auto".
        request: Names these clients only; the reply has the form that it says.
        tasks: Where the tasks come from.
        memories: Client -> what it keeps.
        costs: What updates take; new measurements are added.
    """
    chosen = plan(engine, job).engine
    collected = _Collected(request)
    kept: dict[int, Params] = {}
    rejected = collected.rejected
    for groups in _groups(request, tasks, job.learner, rejected):
        cost: dict[int, Computation | None] = {}
        for group in groups:
            of_each = cost_of_update(job, memories[group.clients[0]], group, costs)
            cost |= dict.fromkeys(group.clients, of_each)
        for part in _updates(chosen, job, groups, memories, rejected):
            if isinstance(part, Total):
                collected.add_total(part, cost)
                continue
            memory = map_params(Tensor.cpu, part.results.memory)
            for position in collected.add(part, cost):
                kept[part.clients[position]] = map_params(
                    lambda value, i=position: value[i], memory
                )
    return Trained(collected.reply(chosen.name), kept, costs)


def evaluate(
    strategy: MetaStrategy,
    learner: Learner,
    request: EvaluateRequest,
    tasks: Tasks,
    memories: Memories,
    client_batch: int = 0,
    elsewhere: Elsewhere | None = None,
) -> EvaluateReply:
    """Compute the metrics of the request's clients before and after adaptation."""
    chunks = cut(request.clients, client_batch or batch_for_weights(learner))
    parts: Iterable[EvaluateReply]
    if elsewhere is not None and len(chunks) > 1:
        parts = elsewhere.evaluate(request, chunks, memories)
    else:
        parts = (
            evaluate_chunk(strategy, learner, replace(request, clients=chunk), tasks, memories)
            for chunk in chunks
        )
    rejected: list[Rejection] = []
    rows: dict[int, dict[str, float]] = {}
    for part in parts:
        rejected += part.rejected
        for position, client in enumerate(part.clients):
            rows[client] = {name: column[position] for name, column in part.values.items()}
    return _judgement(rows, rejected)


def evaluate_chunk(
    strategy: MetaStrategy,
    learner: Learner,
    request: EvaluateRequest,
    tasks: Tasks,
    memories: Memories,
) -> EvaluateReply:
    """Compute the metrics of clients that share a computation."""
    stages = evaluation_stages(strategy, request.steps)

    def metrics(task: Task, memory: Params) -> dict[str, Tensor]:
        values = {}
        for stage, adapting in stages.items():
            predictor = adapting.adapt(learner, request.meta, memory, task.support)
            prediction = predictor(task.query.x)
            sound = prediction.isfinite().all()
            for metric in learner.problem.metrics:
                value = metric.function(prediction, task.query.y)
                values[f"{metric.name}:{stage}"] = torch.where(sound, value, metric.worst)
        return values

    rejected: list[Rejection] = []
    rows: dict[int, dict[str, float]] = {}
    for groups in _groups(request, tasks, learner, rejected):
        for group in groups:
            for clients, results in _judged(metrics, group, memories, rejected):
                columns = {name: values.tolist() for name, values in results.items()}
                for position, client in enumerate(clients):
                    rows[client] = {name: column[position] for name, column in columns.items()}
    return _judgement(rows, rejected)


def cut(clients: Sequence[int], size: int) -> list[Chunk]:
    """Cut clients into chunks: the same ones, whoever computes them."""
    return [tuple(clients[first : first + size]) for first in range(0, len(clients), size)]


def _judgement(
    rows: Mapping[int, Mapping[str, float]], rejected: Sequence[Rejection]
) -> EvaluateReply:
    clients = tuple(sorted(rows))
    names = rows[clients[0]] if clients else {}
    values = {name: [rows[client][name] for client in clients] for name in names}
    return EvaluateReply(clients, values, tuple(rejected))


def evaluation_stages(strategy: MetaStrategy, steps: Sequence[int]) -> dict[str, MetaStrategy]:
    """Return the strategies to judge: as it is ("after"), unadapted ("before"), and at N steps."""
    stages = {"after": strategy}
    if adaptation_steps(strategy) is not None:
        stages["before"] = with_adaptation_steps(strategy, 0)
        for count in steps:
            stages[f"after@{count}"] = with_adaptation_steps(strategy, count)
    return stages


def _groups(
    request: TrainRequest | EvaluateRequest,
    tasks: Tasks,
    learner: Learner,
    rejected: list[Rejection],
) -> Iterator[list[TaskGroup]]:
    """Yield the tasks of a request, in the type and on the device of the meta-parameters.

    Of its clients one by one, if one of them has no usable data.
    """
    chunk = request.clients
    try:
        groups = tasks(chunk)
    except Exception as error:  # a client's own data may be broken in any way
        if len(chunk) == 1:
            _reject_raised(error, chunk, "reading its data", rejected)
        else:
            for client in chunk:
                yield from _groups(replace(request, clients=(client,)), tasks, learner, rejected)
        return
    dtype, device = learner.problem.dtype, device_of(request.meta)
    yield [TaskGroup(group.clients, cast(group.tasks, dtype, device)) for group in groups]


def _updates(
    engine: Engine,
    job: Job,
    groups: Sequence[TaskGroup],
    memories: Memories,
    rejected: list[Rejection],
) -> Iterator[Rows | Total]:
    """Yield the updates of all clients but those whose computation raises.

    Those that the engine finds unsound are computed once more by themselves, to learn why.
    """
    done: set[int] = set()
    unsound: set[int] = set()
    try:
        for part in engine.compute(job, groups, memories):
            done.update(part.clients)
            if isinstance(part, Total):
                unsound.update(part.unsound)
            yield part
    except Exception as error:  # anything a model may raise
        rest = _without(groups, done | unsound)
        if sum(len(group.clients) for group in rest) == 1:
            _reject_raised(error, rest[0].clients, "its computation", rejected)
        else:
            logger.debug("engine %s raised; trying the clients one by one", engine.name)
            yield from _those_that_work(engine, job, rest, memories, rejected)
    if unsound:
        everyone = {client for group in groups for client in group.clients}
        yield from _updates(LOOP, job, _without(groups, everyone - unsound), memories, rejected)


def _those_that_work(
    engine: Engine,
    job: Job,
    groups: Sequence[TaskGroup],
    memories: Memories,
    rejected: list[Rejection],
) -> Iterator[Rows | Total]:
    """Yield the updates of clients of which at least one raises, as if that one were absent."""
    alone: list[Rows | Total] = []
    failed: set[int] = set()
    for group in groups:
        for position, client in enumerate(group.clients):
            try:
                alone += LOOP.compute(job, [select(group, [position])], memories)
            except Exception as error:
                _reject_raised(error, (client,), "its computation", rejected)
                failed.add(client)
    if failed and engine is not LOOP and len(alone) > 1:
        yield from _updates(engine, job, _without(groups, failed), memories, rejected)
        return
    if not failed and job.learner.network not in _one_by_one:
        # Only the engine fails, e.g. as the network cannot be vmapped: said once, not every round.
        _one_by_one.add(job.learner.network)
        logger.warning(
            "engine %s cannot compute this network for many clients at once; its clients are "
            "computed one by one (--engine loop does so without trying)",
            engine.name,
        )
    yield from alone


def _without(groups: Sequence[TaskGroup], clients: set[int]) -> list[TaskGroup]:
    """Return groups without some clients."""
    rest = []
    for group in groups:
        positions = [i for i, client in enumerate(group.clients) if client not in clients]
        if positions:
            rest.append(select(group, positions))
    return rest


def _judged(
    function: Callable[[Task, Params], R],
    group: TaskGroup,
    memories: Memories,
    rejected: list[Rejection],
) -> Iterator[tuple[tuple[int, ...], R]]:
    """Yield (clients, stacked results) of a group, without the clients whose computation raises."""
    try:
        yield group.clients, apply(function, group, memories)
        return
    except Exception as error:  # anything a model may raise
        if len(group.clients) == 1:
            _reject_raised(error, group.clients, "its computation", rejected)
            return
    for position in range(len(group.clients)):
        yield from _judged(function, select(group, [position]), memories, rejected)


def _reject_raised(
    error: Exception, clients: Sequence[int], stage: str, rejected: list[Rejection]
) -> None:
    """Name an error without its text, which may quote data; fedmaml's own texts never do.

    The first error of a chunk goes to the node's own log with its traceback.
    """
    trace = None if rejected else error
    logger.error(
        "clients %s: %s raised in %s", clients, type(error).__name__, stage, exc_info=trace
    )
    text = (
        f": {error}" if isinstance(error, FedmamlError) else " (its text stays in the node's log)"
    )
    detail = f"{type(error).__name__} in {stage}{text}"
    rejected.append(Rejection("RAISED", detail, "", tuple(clients)))


def _put_together(
    request: TrainRequest, parts: Iterable[Trained], engine: str, costs: Costs
) -> Trained:
    """Add up the parts of a request, one at a time."""
    sums: dict[str, ExactSum] = {}
    stacks: dict[str, list[Tensor]] = {group: [] for group in request.meta}
    clients: list[int] = []
    weights: list[float] = []
    metrics: dict[str, list[float]] = {}
    computations: list[Computation] = []
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
        rejected += reply.rejected
        for name, values in reply.metrics.items():
            metrics.setdefault(name, []).extend(values)
        memories |= part.memories
        costs |= part.costs
    stacked = {
        group: torch.cat(values) if values else _no_updates(request.meta, group)
        for group, values in stacks.items()
    }
    reply = TrainReply(
        clients=tuple(clients),
        weights=tuple(weights),
        metrics=metrics,
        update=sums or stacked,
        rejected=tuple(rejected),
        round=request.round,
        base=request.base,
        computations=tuple(computations) if len(computations) == len(clients) else (),
        engine=engine,
    )
    return Trained(reply, memories, costs)


class _Collected:
    """Gathers the updates of a chunk's clients into one reply."""

    def __init__(self, request: TrainRequest) -> None:
        self._request = request
        self._sums: dict[str, ExactSum] = {}
        self._stacks: dict[str, list[Tensor]] = {group: [] for group in request.meta}
        self._clients: list[int] = []
        self._weights: list[float] = []
        self._metrics: dict[str, list[float]] = {}
        self._computations: list[Computation | None] = []
        self.rejected: list[Rejection] = []
        self._form = request.form

    def add_total(self, part: Total, cost: Mapping[int, Computation | None]) -> None:
        """Take in a sum."""
        for group, value in part.sums.items():
            self._add_sum(group, value)
        self._note(part.clients, part.weight, part.metrics, cost)

    def add(self, part: Rows, cost: Mapping[int, Computation | None]) -> list[int]:
        """Take in what is sound; return the positions of the clients taken."""
        clients, results = part
        flat = {group: flatten(params, batch_axes=1) for group, params in results.update.items()}
        usable = torch.ones(len(clients), dtype=torch.bool, device=results.weight.device)
        for group, vectors in flat.items():
            ranged = aggregation.in_range(vectors, results.weight)
            for position in (usable & ~ranged).nonzero()[:, 0].tolist():
                self._reject(clients[position], group, vectors[position])
            usable &= ranged
        sound = usable.nonzero()[:, 0].tolist()

        def of_sound(values: Tensor) -> Tensor:
            return values if len(sound) == len(clients) else values[usable]

        for group, vectors in flat.items():
            if self._form == "stack":
                self._stacks[group].append(of_sound(vectors).cpu())
            elif sound:
                total = aggregation.exact_sum(of_sound(vectors), of_sound(results.weight))
                self._add_sum(group, replace(total, limbs=total.limbs.cpu()))
        self._note(
            [clients[position] for position in sound],
            of_sound(results.weight),
            {name: of_sound(values) for name, values in results.metrics.items()},
            cost,
        )
        return sound

    def _add_sum(self, group: str, value: ExactSum) -> None:
        self._sums[group] = self._sums[group] + value if group in self._sums else value

    def _note(
        self,
        clients: Sequence[int],
        weights: Tensor,
        metrics: Mapping[str, Tensor],
        cost: Mapping[int, Computation | None],
    ) -> None:
        self._clients += clients
        self._weights += weights.tolist()
        self._computations += [cost[client] for client in clients]
        for name, values in metrics.items():
            self._metrics.setdefault(name, []).extend(values.tolist())

    def _reject(self, client: int, group: str, vector: Tensor) -> None:
        finite = bool(vector.isfinite().all())
        reason, what = (
            ("RANGE", "too large to be a step") if finite else ("NONFINITE", "not finite")
        )
        detail = (
            f"the update of group {group!r} is {what}: lower inner.lr, or outer.lr if the loss "
            "before adaptation is huge"
        )
        self.rejected.append(Rejection(reason, detail, "", (client,)))

    def reply(self, engine: str) -> TrainReply:
        update: dict[str, Tensor] | dict[str, ExactSum]
        if self._form == "sum" and self._sums:
            update = self._sums
        else:
            update = {
                group: torch.cat(parts) if parts else _no_updates(self._request.meta, group)
                for group, parts in self._stacks.items()
            }
        told = [cost for cost in self._computations if cost is not None]
        return TrainReply(
            clients=tuple(self._clients),
            weights=tuple(self._weights),
            metrics=self._metrics,
            update=update,
            rejected=tuple(self.rejected),
            round=self._request.round,
            base=self._request.base,
            computations=() if len(told) < len(self._computations) else tuple(told),
            engine=engine,
        )


def smaller_form(request: TrainRequest) -> Form:
    """Return "stack" where it was asked for or is no larger on the wire than a sum."""
    entry = next(iter(next(iter(request.meta.values())).values()))
    sum_bytes = len(SPACINGS) * 8
    stack_bytes = len(request.clients) * entry.element_size()
    return "stack" if request.form == "stack" or stack_bytes <= sum_bytes else "sum"


def _no_updates(meta: MetaParams, group: str) -> Tensor:
    flat = flatten(meta[group])
    return torch.zeros(0, len(flat), dtype=flat.dtype)
