"""What a node computes for one request, as functions: tasks in, updates or metrics out.

A node's clients go through in chunks of ``client_batch``, each chunk through an engine
(`fedmaml.client.engines`). A client that fails or diverges is left out with a reason and never
harms the others.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fedmaml.client.costs import Costs, cost_of_update
from fedmaml.client.engines import LOOP, Engine, Job, Memories, Rows, Total, plan
from fedmaml.client.engines.base import batch_for_weights, select
from fedmaml.client.engines.generic import apply
from fedmaml.core import aggregation
from fedmaml.core.aggregation import SPACINGS, ExactSum
from fedmaml.core.costs import Computation
from fedmaml.core.errors import FedmamlError
from fedmaml.core.learner import Learner
from fedmaml.core.params import MetaParams, Params, flatten, map_params
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

Tasks = Callable[[Sequence[int]], list[TaskGroup]]
"""Client numbers -> their tasks of this round, in groups of equal shape."""


def train(
    strategy: MetaStrategy,
    learner: Learner,
    request: TrainRequest,
    tasks: Tasks,
    memories: Memories,
    client_batch: int = 0,
    known_costs: Costs | None = None,
    engine: str = "auto",
) -> tuple[TrainReply, dict[int, Params]]:
    """Compute the updates of the request's clients.

    Args:
        strategy: The algorithm.
        learner: From its ``build``.
        request: What the server asked.
        tasks: Where the tasks come from.
        memories: Client -> what it keeps; must hold every client of the request.
        client_batch: Clients per computation; 0: what the engine does best; 1: one by one.
        known_costs: What updates take, as measured before; new measurements are added.
        engine: Name of an engine, or "auto".

    Returns:
        The reply, and the new memories of the clients whose updates are in it.
    """
    collected = _Collected(request)
    kept: dict[int, Params] = {}
    costs: Costs = {} if known_costs is None else known_costs
    job = Job(strategy, learner, request.meta, smaller_form(request))
    chosen = plan("loop" if client_batch == 1 else engine, job)
    batch = client_batch or chosen.engine.client_batch(job)
    rejected = collected.rejected
    for groups in _chunks(request.clients, tasks, learner, batch, rejected):
        cost: dict[int, Computation | None] = {}
        for group in groups:
            of_each = cost_of_update(job, memories[group.clients[0]], group, costs)
            cost |= dict.fromkeys(group.clients, of_each)
        for part in _updates(chosen.engine, job, groups, memories, rejected):
            if isinstance(part, Total):
                collected.add_total(part, cost)
                continue
            for position in collected.add(part, cost):
                kept[part.clients[position]] = map_params(
                    lambda value, i=position: value[i], part.results.memory
                )
    return collected.reply(str(chosen)), kept


def evaluate(
    strategy: MetaStrategy,
    learner: Learner,
    request: EvaluateRequest,
    tasks: Tasks,
    memories: Memories,
    client_batch: int = 0,
) -> EvaluateReply:
    """Compute the metrics of the request's clients before and after adaptation."""
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
    batch = client_batch or batch_for_weights(learner)
    for groups in _chunks(request.clients, tasks, learner, batch, rejected):
        for group in groups:
            for clients, results in _judged(metrics, group, memories, rejected):
                columns = {name: values.tolist() for name, values in results.items()}
                for position, client in enumerate(clients):
                    rows[client] = {name: column[position] for name, column in columns.items()}
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


def _chunks(
    clients: Sequence[int],
    tasks: Tasks,
    learner: Learner,
    client_batch: int,
    rejected: list[Rejection],
) -> Iterator[list[TaskGroup]]:
    """Yield the tasks of client_batch clients at a time; those without usable data are rejected."""
    for first in range(0, len(clients), client_batch):
        chunk = clients[first : first + client_batch]
        try:
            groups = tasks(chunk)
        except Exception as error:  # a client's own data may be broken in any way
            if len(chunk) == 1:
                _reject_raised(error, chunk, "reading its data", rejected)
            else:
                yield from _chunks(chunk, tasks, learner, 1, rejected)
            continue
        yield [
            TaskGroup(group.clients, cast(group.tasks, learner.problem.dtype)) for group in groups
        ]


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
    if not failed:  # only the engine fails, e.g. as the network cannot be vmapped
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

    The first error of a request goes to the node's own log with its traceback.
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


class _Collected:
    """Gathers the updates of a request's clients into one reply."""

    def __init__(self, request: TrainRequest) -> None:
        self._request = request
        self._sums: dict[str, ExactSum] = {}
        self._stacks: dict[str, list[Tensor]] = {group: [] for group in request.meta}
        self._clients: list[int] = []
        self._weights: list[float] = []
        self._metrics: dict[str, list[float]] = {}
        self._computations: list[Computation | None] = []
        self.rejected: list[Rejection] = []
        self._form = smaller_form(request)

    def add_total(self, part: Total, cost: Mapping[int, Computation | None]) -> None:
        """Take in a sum."""
        for group, value in part.sums.items():
            self._add_sum(group, value)
        self._note(part.clients, part.weight, part.metrics, cost)

    def add(self, part: Rows, cost: Mapping[int, Computation | None]) -> list[int]:
        """Take in what is sound; return the positions of the clients taken."""
        clients, results = part
        flat = {group: flatten(params, batch_axes=1) for group, params in results.update.items()}
        usable = torch.ones(len(clients), dtype=torch.bool)
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
                self._stacks[group].append(of_sound(vectors))
            elif sound:
                self._add_sum(
                    group, aggregation.exact_sum(of_sound(vectors), of_sound(results.weight))
                )
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
    return flat.new_zeros(0, len(flat))
