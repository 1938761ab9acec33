"""Evaluation of adaptation at a node's clients: metrics before and after."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from fedmaml.computing.chunks import Executor, Tasks, cut, reject_raised, task_groups
from fedmaml.computing.costs import cost_of_evaluation
from fedmaml.computing.counting import count_examples
from fedmaml.computing.engines import Job, Memories
from fedmaml.computing.engines.base import batch_for_weights, select
from fedmaml.computing.engines.generic import apply
from fedmaml.core.costs import NO_COMPUTATION, Computation
from fedmaml.core.counters import Counted
from fedmaml.core.learner import Learner
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.records import Rejection
from fedmaml.core.requests import EvaluateReply, EvaluateRequest
from fedmaml.core.tasks import Task, TaskGroup, first_shots, group_by_shape, unstack
from fedmaml.strategies.base import MetaStrategy, evaluation_stages

R = TypeVar("R")


def evaluate(
    strategy: MetaStrategy,
    learner: Learner,
    request: EvaluateRequest,
    tasks: Tasks,
    memories: Memories,
    client_batch: int = 0,
    executor: Executor | None = None,
) -> EvaluateReply:
    """Compute the metrics of the request's clients before and after adaptation."""
    chunks = cut(request.clients, client_batch or batch_for_weights(learner))
    parts: Iterable[EvaluateReply]
    if executor is not None and len(chunks) > 1:
        parts = executor.evaluate(request, chunks, memories)
    else:
        parts = (
            evaluate_chunk(strategy, learner, replace(request, clients=chunk), tasks, memories)
            for chunk in chunks
        )
    rejected: list[Rejection] = []
    rows: dict[int, dict[str, float]] = {}
    costs: dict[int, Computation] = {}
    counted: dict[int, Counted] = {}
    for part in parts:
        rejected += part.rejected
        costs |= zip(part.clients, part.computations, strict=False)  # none where it is not known
        counted |= zip(part.clients, part.counted, strict=False)
        for position, client in enumerate(part.clients):
            rows[client] = {name: column[position] for name, column in part.values.items()}
    return _evaluation(rows, rejected, costs, counted)


@dataclass(frozen=True)
class _Asked:
    """What is computed for each client: its metrics at stages of adaptation."""

    job: Job
    stages: Mapping[str, MetaStrategy]
    shared_statistics: Params


def evaluate_chunk(
    strategy: MetaStrategy,
    learner: Learner,
    request: EvaluateRequest,
    tasks: Tasks,
    memories: Memories,
) -> EvaluateReply:
    """Compute the metrics of clients that share a computation."""
    job = Job(strategy, learner, request.meta)
    asked = _Asked(job, evaluation_stages(strategy, request.steps), request.shared_statistics)
    rejected: list[Rejection] = []
    rows: dict[int, dict[str, float]] = {}
    costs: dict[int, Computation] = {}
    counted: dict[int, Counted] = {}
    for read in task_groups(request, tasks, job, rejected):
        groups, of_these = count_examples(learner.problem.counters, read, rejected)
        counted |= of_these
        for group in groups:
            found = _rows(asked, group, memories, rejected, costs)
            for count in request.shots:
                left = select(group, [group.clients.index(client) for client in found])
                more = _rows_at(count, asked, left, memories, rejected, costs)
                # A client whose computation raises is not evaluated at all.
                found = {client: found[client] | more[client] for client in found if client in more}
            rows |= found
    return _evaluation(rows, rejected, costs, counted)


def _rows_at(
    count: int,
    asked: _Asked,
    group: TaskGroup,
    memories: Memories,
    rejected: list[Rejection],
    costs: dict[int, Computation],
) -> dict[int, dict[str, float]]:
    """Compute the metrics after adaptation on smaller supports; NaN at clients that have fewer."""
    stage, problem = f"shots@{count}", asked.job.learner.problem
    asked = replace(asked, stages={stage: asked.job.strategy})
    smaller, rows = {}, {}
    for client, task in unstack(group).items():
        classes = None if problem.ordered else problem.classes
        support = first_shots(task.support, count, classes)
        if support is None:
            rows[client] = {
                f"{column}:{stage}": math.nan
                for metric in problem.metrics for column in metric.columns
            }  # fmt: skip
        else:
            smaller[client] = Task(support, task.query)
    for part in group_by_shape(smaller):
        rows |= _rows(asked, part, memories, rejected, costs)
    return rows


def metrics_of(
    learner: Learner,
    meta: MetaParams,
    stages: Mapping[str, MetaStrategy],
    shared_statistics: Params,
) -> Callable[[Task, Params], dict[str, Tensor]]:
    """Return the function (task, memory) -> ``"<column>:<stage>"`` -> value."""

    def metrics(task: Task, memory: Params) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for stage, adapting in stages.items():
            predictor = adapting.adapt(learner, meta, memory, task.support)
            prediction = predictor(task.query.x)
            for metric in learner.problem.metrics:
                found = metric.values(prediction, task.query.y, shared_statistics)
                values |= {f"{column}:{stage}": value for column, value in found.items()}
        return values

    return metrics


def _rows(
    asked: _Asked,
    group: TaskGroup,
    memories: Memories,
    rejected: list[Rejection],
    costs: dict[int, Computation],
) -> dict[int, dict[str, float]]:
    """Return client -> values, without the clients whose computation raises; add up its cost."""
    job = asked.job
    metrics = metrics_of(job.learner, job.meta, asked.stages, asked.shared_statistics)
    cost = cost_of_evaluation(job, asked.stages, metrics, memories[group.clients[0]], group)
    if cost is not None:
        costs |= {client: cost + costs.get(client, NO_COMPUTATION) for client in group.clients}
    rows: dict[int, dict[str, float]] = {}
    for clients, results in _evaluated(metrics, group, memories, rejected):
        columns = {name: values.tolist() for name, values in results.items()}
        for position, client in enumerate(clients):
            rows[client] = {name: column[position] for name, column in columns.items()}
    return rows


def _evaluation(
    rows: Mapping[int, Mapping[str, float]],
    rejected: Sequence[Rejection],
    costs: Mapping[int, Computation],
    counted: Mapping[int, Counted],
) -> EvaluateReply:
    clients = tuple(sorted(rows))
    names = rows[clients[0]] if clients else {}
    values = {name: [rows[client][name] for client in clients] for name in names}
    known = tuple(costs[client] for client in clients if client in costs)
    computations = known if len(known) == len(clients) else ()
    units = tuple(counted[client] for client in clients) if counted else ()
    return EvaluateReply(clients, values, tuple(rejected), computations, units)


def _evaluated(
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
            reject_raised(error, group.clients, "its computation", rejected)
            return
    for position in range(len(group.clients)):
        yield from _evaluated(function, select(group, [position]), memories, rejected)
