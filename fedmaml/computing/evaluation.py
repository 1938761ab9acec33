"""Evaluation of adaptation at a node's clients: metrics before and after.

The metrics of a chunk's clients come from the kernel of `fused`, which walks one trajectory through
all stages of adaptation, or from the strategy's own ``adapt``, once for each stage.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from fedmaml.computing.chunks import Executor, Tasks, cut, reject_raised, task_groups
from fedmaml.computing.costs import cost_of_evaluation
from fedmaml.computing.counting import count_examples
from fedmaml.computing.engines import FUSED, Job, Memories
from fedmaml.computing.engines.base import batch_for_weights, select, without
from fedmaml.computing.engines.generic import Loop, apply
from fedmaml.computing.evaluated import Columns, joined, metrics_of, metrics_of_predictions
from fedmaml.core.costs import Computation
from fedmaml.core.counters import Counted
from fedmaml.core.failures import contained
from fedmaml.core.learner import Learner
from fedmaml.core.params import Params, device_of
from fedmaml.core.records import Rejection
from fedmaml.core.requests import EvaluateReply, EvaluateRequest
from fedmaml.core.tasks import TaskGroup, first_shots
from fedmaml.strategies.base import MetaStrategy, adaptation_of, evaluation_stages


def evaluate(
    strategy: MetaStrategy,
    learner: Learner,
    request: EvaluateRequest,
    tasks: Tasks,
    memories: Memories,
    client_batch: int = 0,
    executor: Executor | None = None,
    engine: str = "auto",
) -> EvaluateReply:
    """Compute the metrics of the request's clients before and after adaptation.

    Args:
        strategy: The algorithm.
        learner: From its ``build``.
        request: The request of the server.
        tasks: Makes the tasks.
        memories: Client -> its memory; must hold every client of the request.
        client_batch: Clients per computation; 0: what is fastest; 1: one by one.
        executor: Computes chunks if there are several; None: here, one after the other.
        engine: Name of an engine, or "auto"; `fused` and "auto" take its kernel where it supports
            the strategy's adaptation.
    """
    engine = "loop" if client_batch == 1 else engine
    workers = 1 if executor is None else executor.workers
    job = Job(strategy, learner, request.meta)
    size = chunk_size(job, engine, len(request.clients), workers, client_batch)
    chunks = cut(request.clients, size)
    parts: Iterable[EvaluateReply]
    if executor is not None and len(chunks) > 1:
        parts = executor.evaluate(engine, request, chunks, memories)
    else:
        parts = (
            evaluate_chunk(
                strategy, learner, replace(request, clients=chunk), tasks, memories, engine
            )
            for chunk in chunks
        )
    return _put_together(list(parts))


def chunk_size(job: Job, engine: str, clients: int, workers: int = 1, asked: int = 0) -> int:
    """Return how many of a request's clients are evaluated together.

    Args:
        job: Strategy, learner and meta-parameters.
        engine: As in `evaluate`.
        clients: Number of clients in the request.
        workers: Processes that share them.
        asked: ``client_batch`` of the run.
    """
    if is_by_kernel(job, engine):
        return FUSED.chunk_size(job, clients, workers, asked)
    return asked or batch_for_weights(job.learner)


def is_by_kernel(job: Job, engine: str) -> bool:
    """Return whether the kernel of `fused` computes an evaluation.

    Args:
        job: Strategy, learner and meta-parameters.
        engine: The one that was asked for, or "auto".
    """
    if engine not in ("auto", FUSED.name) or FUSED.why_not_evaluated(job):
        return False
    return engine == FUSED.name or not FUSED.why_slow(job)


@dataclass(frozen=True)
class _Asked:
    """What is computed for each client: its metrics at stages of adaptation.

    Attributes:
        job: Strategy, learner and meta-parameters.
        stages: Stage -> the strategy with its steps.
        shared_statistics: Of the request.
        by_kernel: Whether the kernel of `fused` computes them.
        one_by_one: Whether clients are computed alone, so that none changes another's bits.
    """

    job: Job
    stages: dict[str, MetaStrategy]
    shared_statistics: Params
    by_kernel: bool
    one_by_one: bool = False

    def columns(self, groups: Sequence[TaskGroup], memories: Memories) -> Iterator[Columns]:
        """Yield the metrics of groups of clients.

        Raises:
            Exception: Any error of the network or of a metric.
        """
        if not self.by_kernel:
            for group in groups:
                yield Columns(group.clients, apply(self.metrics, group, memories))
            return
        steps = {name: _steps(strategy) for name, strategy in self.stages.items()}
        rising = sorted(set(steps.values()))
        at_stage = {name: rising.index(count) for name, count in steps.items()}
        found = FUSED.predictions(self.job, groups, memories, rising)
        metrics = self.job.learner.problem.metrics
        yield from metrics_of_predictions(metrics, groups, found, at_stage, self.shared_statistics)

    @cached_property
    def metrics(self) -> Callable[..., dict[str, Tensor]]:
        """The metrics of one client by the strategy's own ``adapt``."""
        return metrics_of(self.job.learner, self.job.meta, self.stages, self.shared_statistics)


_stages = lru_cache(maxsize=16)(evaluation_stages)


def _steps(strategy: MetaStrategy) -> int:
    steps = adaptation_of(strategy)
    return 0 if steps is None else steps.steps


def evaluate_chunk(
    strategy: MetaStrategy,
    learner: Learner,
    request: EvaluateRequest,
    tasks: Tasks,
    memories: Memories,
    engine: str = "auto",
) -> EvaluateReply:
    """Compute the metrics of clients that share a computation."""
    job = Job(strategy, learner, request.meta)
    stages = _stages(strategy, request.steps)
    by_kernel, one_by_one = is_by_kernel(job, engine), engine == Loop.name
    asked = _Asked(job, stages, request.shared_statistics, by_kernel, one_by_one)
    rejected: list[Rejection] = []
    parts: list[list[Columns]] = [[] for _ in range(1 + len(request.shots))]
    costs: dict[int, Computation] = {}
    counted: dict[int, Counted] = {}
    for read in task_groups(request, tasks, job, rejected):
        groups, of_these = count_examples(learner.problem.counters, read, rejected)
        counted |= of_these
        parts[0] += _evaluated(asked, groups, memories, rejected, costs)
        for at, count in enumerate(request.shots, 1):
            out = {client for rejection in rejected for client in rejection.clients}
            left = without(groups, out) if out else groups
            parts[at] += _at_shots(count, asked, left, memories, rejected, costs)
    return _reply(parts, rejected, costs, counted)


def _at_shots(
    count: int,
    asked: _Asked,
    groups: Sequence[TaskGroup],
    memories: Memories,
    rejected: list[Rejection],
    costs: dict[int, Computation],
) -> Iterator[Columns]:
    """Yield the metrics after adaptation on smaller supports; NaN at clients that have fewer."""
    stage, problem = f"shots@{count}", asked.job.learner.problem
    asked = replace(asked, stages={stage: asked.job.strategy})
    smaller: list[TaskGroup] = []
    fewer: list[int] = []
    for group in groups:
        cut_down, missing = first_shots(group, count, None if problem.ordered else problem.classes)
        smaller += cut_down
        fewer += missing
    yield from _evaluated(asked, smaller, memories, rejected, costs)
    if fewer:
        nothing = torch.full((len(fewer),), math.nan, device=device_of(asked.job.meta))
        names = [f"{column}:{stage}" for metric in problem.metrics for column in metric.columns]
        yield Columns(tuple(fewer), dict.fromkeys(names, nothing))


def _evaluated(
    asked: _Asked,
    groups: Sequence[TaskGroup],
    memories: Memories,
    rejected: list[Rejection],
    costs: dict[int, Computation],
) -> Iterator[Columns]:
    """Yield the metrics of all clients but those whose computation raises; add up its cost."""
    of_each = cost_of_evaluation(asked.job, asked.stages, asked.metrics, memories, groups)
    for group, cost in zip(groups, of_each, strict=True):
        if cost is not None:
            before = {client: costs[client] for client in group.clients if client in costs}
            costs |= dict.fromkeys(group.clients, cost)
            costs |= {client: cost + earlier for client, earlier in before.items()}
    if asked.by_kernel:
        yield from _those_that_work(asked, groups, memories, rejected)
        return
    for group in groups:
        rows = range(len(group.clients))
        for part in [select(group, [row]) for row in rows] if asked.one_by_one else [group]:
            yield from _those_that_work(asked, [part], memories, rejected)


def _those_that_work(
    asked: _Asked, groups: Sequence[TaskGroup], memories: Memories, rejected: list[Rejection]
) -> Iterator[Columns]:
    """Yield the metrics of clients, without those whose computation raises.

    A client that the kernel does not take alone is computed by the strategy's own ``adapt``.
    """
    if not groups:
        return
    try:
        with contained():
            found = list(asked.columns(groups, memories))
    except Exception as error:  # anything a model or a metric may raise
        clients = [client for group in groups for client in group.clients]
        if len(clients) > 1:
            for group in groups:
                for position in range(len(group.clients)):
                    alone = [select(group, [position])]
                    yield from _those_that_work(asked, alone, memories, rejected)
        elif asked.by_kernel:
            yield from _those_that_work(replace(asked, by_kernel=False), groups, memories, rejected)
        else:
            reject_raised(error, tuple(clients), "its computation", rejected)
        return
    yield from found


def _reply(
    parts: Sequence[Sequence[Columns]],
    rejected: Sequence[Rejection],
    costs: dict[int, Computation],
    counted: dict[int, Counted],
) -> EvaluateReply:
    """Put stages side by side, for clients that have them all, in the order of their numbers."""
    tables = [joined(columns) for columns in parts]
    found = set.intersection(*(set(table.clients) for table in tables))
    clients = tuple(sorted(found))
    values: dict[str, list[float]] = {}
    for table in tables if clients else ():
        values |= table.of(clients)
    known = all(map(costs.__contains__, clients))
    computations = tuple(map(costs.__getitem__, clients)) if known else ()
    units = tuple(map(counted.__getitem__, clients)) if counted else ()
    return EvaluateReply(clients, values, tuple(rejected), computations, units)


def _put_together(parts: Sequence[EvaluateReply]) -> EvaluateReply:
    """Return one reply of those of chunks, in the order of the clients' numbers."""
    if len(parts) == 1:
        return parts[0]
    found = [part for part in parts if part.clients]
    clients = [client for part in found for client in part.clients]
    order = sorted(range(len(clients)), key=clients.__getitem__)
    costs = [cost for part in found for cost in part.computations]
    counted = [units for part in found for units in part.counted]
    values: dict[str, list[float]] = {}
    for name in found[0].values if found else ():
        column = [value for part in found for value in part.values[name]]
        values[name] = [column[at] for at in order]
    return EvaluateReply(
        tuple(clients[at] for at in order),
        values,
        tuple(rejection for part in parts for rejection in part.rejected),
        tuple(costs[at] for at in order) if len(costs) == len(clients) else (),
        tuple(counted[at] for at in order) if counted else (),
    )
