"""Training for one request, as functions: tasks in, updates out.

A node's clients are cut into chunks of ``client_batch``. An engine (`fedmaml.computing.engines`)
computes each chunk by itself, here or in a worker process (`fedmaml.client.worker_pool`), and the
parts add up to the reply (`fedmaml.computing.accumulator`). A client that fails or diverges
is left out with a reason, and does not affect the others.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from weakref import WeakSet

from torch import Tensor, nn

from fedmaml.computing.accumulator import Accumulator, Trained, put_together, smaller_form
from fedmaml.computing.chunks import Chunk, Executor, Tasks, cut, reject_raised, task_groups
from fedmaml.computing.compression import compressed, split_residuals
from fedmaml.computing.costs import Costs, costs_of_updates
from fedmaml.computing.counting import count_examples
from fedmaml.computing.data_faults import with_causes
from fedmaml.computing.engines import (
    LOOP,
    Engine,
    Job,
    Memories,
    Rows,
    Total,
    plan,
)
from fedmaml.computing.engines.base import select, without
from fedmaml.core.costs import Computation
from fedmaml.core.counters import Counted
from fedmaml.core.failures import contained
from fedmaml.core.learner import Learner
from fedmaml.core.params import Params, map_params, unstacked
from fedmaml.core.records import Rejection
from fedmaml.core.requests import TrainRequest
from fedmaml.core.tasks import TaskGroup
from fedmaml.strategies.base import MetaStrategy

logger = logging.getLogger("fedmaml")

_one_by_one: WeakSet[nn.Module] = WeakSet()


def train(
    strategy: MetaStrategy,
    learner: Learner,
    request: TrainRequest,
    tasks: Tasks,
    memories: Memories,
    client_batch: int = 0,
    known_costs: Costs | None = None,
    engine: str = "auto",
    executor: Executor | None = None,
) -> Trained:
    """Compute the updates of the request's clients.

    Args:
        strategy: The algorithm.
        learner: From its ``build``.
        request: The request of the server.
        tasks: Makes the tasks.
        memories: Client -> its memory; must hold every client of the request.
        client_batch: Clients per computation; 0: what the engine does best; 1: one by one.
        known_costs: Costs of updates, as measured before.
        engine: Name of an engine, or "auto".
        executor: Computes chunks if there are several; None: here, one after the other.
    """
    request = replace(request, form=smaller_form(request))
    wanted = "loop" if client_batch == 1 else engine
    job = Job(strategy, learner, request.meta, request.computed_form)
    chosen = plan(wanted, job)
    # `loop` computes each client alone, however many share a chunk.
    workers = 1 if executor is None else executor.workers
    size = chosen.engine.chunk_size(job, len(request.clients), workers, client_batch)
    chunks = cut(request.clients, size)
    costs = dict(known_costs or {})
    if len(chunks) == 1:
        return train_chunk(job, chosen.engine, request, tasks, memories, costs)
    parts: Iterable[Trained]
    if executor is not None:
        parts = executor.train(chosen.engine.name, request, chunks, memories, costs)
    else:
        parts = (
            train_chunk(job, chosen.engine, replace(request, clients=chunk), tasks, memories, costs)
            for chunk in chunks
        )
    return put_together(request, parts, costs)


def train_chunk(
    job: Job,
    engine: Engine,
    request: TrainRequest,
    tasks: Tasks,
    memories: Memories,
    costs: Costs,
) -> Trained:
    """Compute the updates of clients that share a computation.

    Args:
        job: Strategy, learner and meta-parameters.
        engine: Computes the updates.
        request: Names these clients only, and the form of the reply.
        tasks: Makes the tasks.
        memories: Client -> its memory.
        costs: Costs of updates; new measurements are added.
    """
    collected = Accumulator(request)
    kept: dict[int, Params] = {}
    measured: list[tuple[Chunk, Computation | None]] = []
    counted: dict[int, Counted] = {}
    engines: Counter[str] = Counter()
    rejected = collected.rejected
    own, residuals = memories, memories
    if request.compression.compressor() is not None:
        own, residuals = split_residuals({client: memories[client] for client in request.clients})
    for read in task_groups(request, tasks, job, rejected):
        groups, of_these = count_examples(job.learner.problem.counters, read, rejected)
        counted |= of_these
        of_each = costs_of_updates(job, own, groups, costs)
        measured += zip((group.clients for group in groups), of_each, strict=True)
        for name, computed in _updates(engine, job, groups, own, rejected):
            if isinstance(computed, Total):
                collected.add_total(computed)
                engines[name] += len(computed.clients)
                continue
            part = compressed(request, computed, residuals)
            sound = collected.add(part)
            engines[name] += len(sound)
            if memory := map_params(Tensor.cpu, part.results.memory):
                rows = unstacked(memory, len(part.clients))
                kept |= {part.clients[i]: rows[i] for i in sound}
        rejected[:] = with_causes(rejected, groups)
    computations = _computations(measured, collected.clients)
    return Trained(collected.reply(+engines, computations, counted), kept, costs)


def _computations(
    measured: Sequence[tuple[Chunk, Computation | None]], clients: list[int]
) -> tuple[Computation, ...]:
    """Return the cost of each client's update; () unless it is known for all of them."""
    everyone = [client for some, _ in measured for client in some]
    costs = [cost for some, cost in measured for _ in some]
    if everyone != clients:  # the engine took them in another order, or some were left out
        of_each = dict(zip(everyone, costs, strict=True))
        costs = [of_each[client] for client in clients]
    known = [cost for cost in costs if cost is not None]
    return tuple(known) if len(known) == len(costs) else ()


def _updates(
    engine: Engine,
    job: Job,
    groups: Sequence[TaskGroup],
    memories: Memories,
    rejected: list[Rejection],
) -> Iterator[tuple[str, Rows | Total]]:
    """Yield the updates of all clients but those whose computation raises, and the engine's name.

    Updates that the engine finds unsound are computed once more, alone, to find the reason.
    """
    done: list[Chunk] = []
    unsound: set[int] = set()
    try:
        with contained():
            for part in engine.compute(job, groups, memories):
                done.append(part.clients)
                if isinstance(part, Total):
                    unsound.update(part.unsound)
                yield engine.name, part
    except Exception as error:  # anything a model may raise
        rest = without(groups, unsound.union(*done))
        if sum(len(group.clients) for group in rest) == 1:
            reject_raised(error, rest[0].clients, "its computation", rejected)
        else:
            logger.debug("engine %s raised; trying the clients one by one", engine.name)
            yield from _those_that_work(engine, job, rest, memories, rejected)
    if unsound:
        everyone = {client for group in groups for client in group.clients}
        yield from _updates(LOOP, job, without(groups, everyone - unsound), memories, rejected)


def _those_that_work(
    engine: Engine,
    job: Job,
    groups: Sequence[TaskGroup],
    memories: Memories,
    rejected: list[Rejection],
) -> Iterator[tuple[str, Rows | Total]]:
    """Yield the updates of clients, at least one of which raises, without those that raise."""
    alone: list[Rows | Total] = []
    failed: set[int] = set()
    for group in groups:
        for position, client in enumerate(group.clients):
            try:
                with contained():
                    alone += LOOP.compute(job, [select(group, [position])], memories)
            except Exception as error:
                reject_raised(error, (client,), "its computation", rejected)
                failed.add(client)
    if failed and engine is not LOOP and len(alone) > 1:
        yield from _updates(engine, job, without(groups, failed), memories, rejected)
        return
    if not failed and job.learner.network not in _one_by_one:
        # Only the engine fails, e.g. as the network cannot be vmapped: said once, not every round.
        _one_by_one.add(job.learner.network)
        logger.warning(
            "engine %s cannot compute this network or strategy for many clients at once; they are "
            "computed one by one (--engine loop does so without trying)",
            engine.name,
        )
    yield from ((LOOP.name, part) for part in alone)
