"""What a node computes for one request, as functions: tasks in, updates or metrics out.

A node's clients go through in chunks of ``client_batch``, tasks of equal shape in one
``torch.func.vmap``; a single task is computed without it. A client that fails or diverges is left
out with a reason and never harms the others.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedmaml.client.costs import Costs, cost_of_update
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
    ClientUpdate,
    MetaStrategy,
    adaptation_steps,
    with_adaptation_steps,
)

R = TypeVar("R")

logger = logging.getLogger("fedmaml")

Tasks = Callable[[Sequence[int]], list[TaskGroup]]
"""Client numbers -> their tasks of this round, in groups of equal shape."""
Memories = Mapping[int, Params]


def train(
    strategy: MetaStrategy,
    learner: Learner,
    request: TrainRequest,
    tasks: Tasks,
    memories: Memories,
    client_batch: int,
    known_costs: Costs | None = None,
) -> tuple[TrainReply, dict[int, Params]]:
    """Compute the updates of the request's clients.

    Args:
        strategy: The algorithm.
        learner: From its ``build``.
        request: What the server asked.
        tasks: Where the tasks come from.
        memories: Client -> what it keeps; must hold every client of the request.
        client_batch: Clients per vmap; 1 computes them one by one.
        known_costs: What updates take, as measured before; new measurements are added.

    Returns:
        The reply, and the new memories of the clients whose updates are in it.
    """
    collected = _Collected(request)
    kept: dict[int, Params] = {}
    costs: Costs = {} if known_costs is None else known_costs

    def update(task: Task, memory: Params) -> ClientUpdate:
        return strategy.client_update(learner, request.meta, memory, task)

    for group in _groups(request.clients, tasks, learner, client_batch, collected.rejected):
        for clients, results in _compute(update, group, memories, collected.rejected):
            memory = memories[clients[0]]
            cost = cost_of_update(strategy, learner, request.meta, memory, group, costs)
            sound = collected.add(clients, results, cost)
            for position in sound:
                memory = map_params(lambda value, i=position: value[i], results.memory)
                kept[clients[position]] = memory
    return collected.reply(), kept


def evaluate(
    strategy: MetaStrategy,
    learner: Learner,
    request: EvaluateRequest,
    tasks: Tasks,
    memories: Memories,
    client_batch: int,
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
    for group in _groups(request.clients, tasks, learner, client_batch, rejected):
        for clients, results in _compute(metrics, group, memories, rejected):
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


def _groups(
    clients: Sequence[int],
    tasks: Tasks,
    learner: Learner,
    client_batch: int,
    rejected: list[Rejection],
) -> Iterator[TaskGroup]:
    """Yield groups of at most client_batch clients; clients without usable data are rejected."""
    for first in range(0, len(clients), client_batch):
        chunk = clients[first : first + client_batch]
        try:
            groups = tasks(chunk)
        except Exception as error:  # a client's own data may be broken in any way
            if len(chunk) == 1:
                _reject_raised(error, chunk, "reading its data", rejected)
            else:
                yield from _groups(chunk, tasks, learner, 1, rejected)
            continue
        for group in groups:
            yield TaskGroup(group.clients, cast(group.tasks, learner.problem.dtype))


def _compute(
    function: Callable[[Task, Params], R],
    group: TaskGroup,
    memories: Memories,
    rejected: list[Rejection],
) -> Iterator[tuple[tuple[int, ...], R]]:
    """Yield (clients, stacked results) of a group, without the clients whose computation raises."""
    clients = group.clients
    try:
        yield clients, _apply(function, group, memories)
        return
    except Exception as error:  # anything a model may raise
        if len(clients) == 1:
            _reject_raised(error, clients, "its computation", rejected)
            return
        logger.debug("a batch of %d clients raised; trying them one by one", len(clients))
    working = []
    for position, client in enumerate(clients):
        single = _select(group, [position])
        try:
            _apply(function, single, memories)
            working.append(position)
        except Exception as error:
            _reject_raised(error, (client,), "its computation", rejected)
    if len(working) == len(clients):  # only the batch fails: the model cannot be vmapped
        logger.warning(
            "the network cannot be computed for many clients at once (torch.func.vmap); "
            "its clients are computed one by one"
        )
        for position in working:
            single = _select(group, [position])
            yield single.clients, _apply(function, single, memories)
    elif working:
        rest = _select(group, working)
        yield rest.clients, _apply(function, rest, memories)


def _apply(function: Callable[[Task, Params], R], group: TaskGroup, memories: Memories) -> R:
    """Compute a whole group; results have a leading client axis."""
    memory = _stacked_memory([memories[client] for client in group.clients])
    if len(group.clients) > 1:
        return torch.func.vmap(function)(group.tasks, memory)
    first = tree_map(lambda value: value[0], (group.tasks, memory))
    return tree_map(lambda value: value[None], function(*first))


def _select(group: TaskGroup, positions: list[int]) -> TaskGroup:
    tasks = tree_map(lambda value: value[positions], group.tasks)
    return TaskGroup(tuple(group.clients[position] for position in positions), tasks)


def _stacked_memory(memories: Sequence[Params]) -> Params:
    return map_params(lambda *values: torch.stack(values), *memories)


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

    def add(
        self, clients: Sequence[int], results: ClientUpdate, cost: Computation | None
    ) -> list[int]:
        """Take in what is sound; return the positions of the clients taken."""
        flat = {group: flatten(params, batch_axes=1) for group, params in results.update.items()}
        usable = torch.ones(len(clients), dtype=torch.bool)
        for group, vectors in flat.items():
            ranged = aggregation.in_range(vectors, results.weight)
            for position in (usable & ~ranged).nonzero()[:, 0].tolist():
                self._reject(clients[position], group, vectors[position])
            usable &= ranged
        sound = usable.nonzero()[:, 0].tolist()
        everyone = len(sound) == len(clients)
        weights = results.weight if everyone else results.weight[usable]
        for group, vectors in flat.items():
            kept = vectors if everyone else vectors[usable]
            if self._form == "stack":
                self._stacks[group].append(kept)
            elif len(kept):
                part = aggregation.exact_sum(kept, weights)
                self._sums[group] = self._sums[group] + part if group in self._sums else part
        self._clients += [clients[position] for position in sound]
        self._weights += weights.tolist()
        self._computations += [cost] * len(sound)
        for name, values in results.metrics.items():
            kept_values = values if everyone else values[usable]
            self._metrics.setdefault(name, []).extend(kept_values.tolist())
        return sound

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

    def reply(self) -> TrainReply:
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
