"""Chunks: the clients of a request that are computed together, and their tasks.

A chunk gives the same bits here and in a worker process: either the request alone determines which
clients share a chunk, or the engine gives the same bits for any grouping (its ``least_share``).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from fedmaml.computing.accumulator import Trained
from fedmaml.computing.costs import Costs
from fedmaml.computing.data_faults import of_finite_numbers, of_known_classes
from fedmaml.computing.engines import Job, Memories
from fedmaml.core.failures import contained, said_of
from fedmaml.core.learner import prepared_tasks
from fedmaml.core.params import device_of
from fedmaml.core.records import Rejection
from fedmaml.core.requests import EvaluateReply, EvaluateRequest, TrainRequest
from fedmaml.core.tasks import TaskGroup

logger = logging.getLogger("fedmaml")

Tasks = Callable[[Sequence[int]], list[TaskGroup]]
"""Client numbers -> their tasks of this round, in groups of equal shape."""

Chunk = tuple[int, ...]
"""Clients that are computed together."""


class Executor(Protocol):
    """Computes chunks, e.g. in worker processes; results come in the order of the chunks.

    Attributes:
        workers: How many chunks are computed at the same time.
    """

    @property
    def workers(self) -> int:
        """How many chunks are computed at the same time."""

    def train(
        self,
        engine: str,
        request: TrainRequest,
        chunks: Sequence[Chunk],
        memories: Memories,
        costs: Costs,
    ) -> Iterable[Trained]:
        """Compute `updates.train_chunk` of every chunk of a request."""

    def evaluate(
        self,
        engine: str,
        request: EvaluateRequest,
        chunks: Sequence[Chunk],
        memories: Memories,
    ) -> Iterable[EvaluateReply]:
        """Compute `evaluation.evaluate_chunk` of every chunk of a request."""


def cut(clients: Sequence[int], size: int) -> list[Chunk]:
    """Cut clients into chunks of a size, wherever they are computed."""
    return [tuple(clients[first : first + size]) for first in range(0, len(clients), size)]


def task_groups(
    request: TrainRequest | EvaluateRequest, tasks: Tasks, job: Job, rejected: list[Rejection]
) -> Iterator[list[TaskGroup]]:
    """Yield the tasks of a request, in the type and on the device of the meta-parameters.

    The tasks hold the noise that problem and strategy declare. If the data of one client cannot be
    read, the clients of its chunk are read one by one; data with faults (`data_faults`) are left
    out.
    """
    chunk = request.clients
    try:
        with contained():
            groups = tasks(chunk)
    except Exception as error:  # a client's own data may be broken in any way
        if len(chunk) == 1:
            reject_raised(error, chunk, "reading its data", rejected)
        else:
            for client in chunk:
                yield from task_groups(replace(request, clients=(client,)), tasks, job, rejected)
        return
    groups = of_known_classes(groups, job.learner.problem.classes, rejected)
    if isinstance(request, EvaluateRequest):
        groups = of_finite_numbers(groups, rejected)
    split = request.split if isinstance(request, EvaluateRequest) else "train"
    yield [
        prepared_tasks(
            group, job.learner.problem, job.strategy.facts.draws,
            seed=request.seed, split=split, round=request.round, device=device_of(request.meta),
        )
        for group in groups
    ]  # fmt: skip


def reject_raised(
    error: Exception, clients: Sequence[int], stage: str, rejected: list[Rejection]
) -> None:
    """Record a rejection that names the class of an error and the stage, and no text.

    The first error of a chunk goes to the node's own log with its traceback.
    """
    trace = None if rejected else error
    logger.error(
        "clients %s: %s raised in %s", clients, type(error).__name__, stage, exc_info=trace
    )
    rejected.append(Rejection("RAISED", said_of(error, stage), "", tuple(clients)))
