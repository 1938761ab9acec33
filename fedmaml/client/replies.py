"""Flower message in, Flower message out: the client side, usable in any ClientApp."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from flwr.app import Context, Error, Message
from torch import Tensor

from fedmaml.client.memory import (
    load_costs,
    load_memories,
    save_costs,
    save_memories,
    without_memory,
)
from fedmaml.computing import evaluation, updates
from fedmaml.computing.chunks import Executor, Tasks
from fedmaml.computing.compression import RESIDUAL
from fedmaml.core import seeding
from fedmaml.core.failures import said_of
from fedmaml.core.learner import Learner, Problem, on_device
from fedmaml.core.params import Params, in_own_memory, to_device
from fedmaml.core.records import Rejection
from fedmaml.core.requests import (
    EvaluateReply,
    EvaluateRequest,
    TrainReply,
    TrainRequest,
    Used,
)
from fedmaml.core.tasks import Task, TaskGroup, stack
from fedmaml.flower_internals import CLIENT_APP_RAISED
from fedmaml.messages.evaluate import read_evaluate_request, write_evaluate_reply
from fedmaml.messages.handed import Handed, handed_reply
from fedmaml.messages.train import read_train_request, write_train_reply
from fedmaml.strategies.base import Initialised, MetaStrategy

Q = TypeVar("Q", TrainRequest, EvaluateRequest)
A = TypeVar("A", TrainReply, EvaluateReply)

CPU = torch.device("cpu")

logger = logging.getLogger("fedmaml")


@dataclass(frozen=True)
class PreparedStrategy:
    """A strategy built for a problem, and how its updates are computed.

    Attributes:
        strategy: The algorithm.
        learner: From its ``build``.
        initial_memory: A new client's memory, from its ``build``.
        client_batch: Clients per computation; 0: what the engine does best; 1: one by one.
        engine: Name of an engine, or "auto".
        device: Where updates are computed; tensors in messages are on the CPU.
    """

    strategy: MetaStrategy
    learner: Learner
    initial_memory: Params
    client_batch: int = 0
    engine: str = "auto"
    device: torch.device = CPU

    def on_device(self, request: Q) -> Q:
        """Return the request with its meta-parameters on the device of the computation."""
        return replace(request, meta=in_own_memory(to_device(request.meta, self.device)))


def prepare(strategy: MetaStrategy, problem: Problem, seed: int = 0) -> PreparedStrategy:
    """Build a strategy exactly as a server with the same seed builds it."""
    return prepared_from(strategy, strategy.build(problem, seeding.generator(seed, "init")))


def prepared_from(
    strategy: MetaStrategy,
    start: Initialised,
    client_batch: int = 0,
    engine: str = "auto",
    device: torch.device = CPU,
) -> PreparedStrategy:
    """Prepare a strategy that is already built; see `PreparedStrategy` for the options."""
    learner = on_device(start.learner, device)
    return PreparedStrategy(strategy, learner, start.memory, client_batch, engine, device)


@dataclass(frozen=True)
class Asked:
    """What a server asks a client for, and what the client's task may depend on.

    Attributes:
        round: From 1.
        split: "train", "validation" or "test": the latter two keep their task in all rounds.
        client: Number of the client.
        seed: Of the run; with round and client it determines everything random.
        shared_statistics: Totals over the training clients; {} without a roll call.
    """

    round: int
    split: str
    client: int
    seed: int
    shared_statistics: Params

    def rows(self, count: int) -> Tensor:
        """Return the numbers of rows in a random order: a new one in each round of training."""
        words = (self.round,) if self.split == "train" else ()
        key = seeding.key(self.seed, "rows", self.split, *words)
        return seeding.permutation(key, [self.client], count)[0]


OwnTask = Task | Callable[[Asked], Task]
"""A client's task, or what makes it of the request."""


def train_reply(
    message: Message, context: Context, strategy: MetaStrategy, problem: Problem, task: OwnTask
) -> Message:
    """Reply to a train message of a `FlowerStrategy`, for a node that is one client.

    Args:
        message: From the server.
        context: The node's; keeps the client's memory.
        strategy: The same as the server's.
        problem: The same as the server's.
        task: The client's support and query examples of this round, or what makes them of an
            `Asked`: a split that is fresh in every round and can be repeated.
    """
    request = read_train_request(message.content)
    tasks = _only(task, partial(Asked, request.round, "train"), request)
    return answer_train(message, request, context, prepare(strategy, problem), tasks)


def evaluate_reply(
    message: Message, context: Context, strategy: MetaStrategy, problem: Problem, task: OwnTask
) -> Message:
    """Reply to an evaluate message of a `FlowerStrategy`; arguments as in `train_reply`."""
    request = read_evaluate_request(message.content)
    tasks = _only(task, partial(Asked, request.round, request.split), request)
    return answer_evaluate(message, request, context, prepare(strategy, problem), tasks)


def answer_train(
    message: Message,
    request: TrainRequest,
    context: Context,
    prepared: PreparedStrategy,
    tasks: Tasks,
    executor: Executor | None = None,
) -> Message:
    """Reply to a train message for all clients that it names."""
    request = prepared.on_device(request)
    residual = request.compression.first_residual(request.meta)
    initial_memory = prepared.initial_memory | {
        RESIDUAL + group: zeros for group, zeros in residual.items()
    }
    memories = load_memories(context, request.clients, initial_memory, request.used)
    trained = updates.train(
        prepared.strategy,
        prepared.learner,
        replace(request, clients=tuple(memories), used={}),
        tasks,
        memories,
        prepared.client_batch,
        load_costs(context),
        prepared.engine,
        executor,
    )
    save_memories(context, trained.memories, Used(request.round, request.base), request.used)
    save_costs(context, trained.costs)
    reply = left_out(trained.reply, without_memory(request.clients, memories))
    if isinstance(message.content, Handed):
        return Message(handed_reply(reply, write_train_reply), reply_to=message)
    return Message(write_train_reply(reply), reply_to=message)


def answer_evaluate(
    message: Message,
    request: EvaluateRequest,
    context: Context,
    prepared: PreparedStrategy,
    tasks: Tasks,
    executor: Executor | None = None,
) -> Message:
    """Reply to an evaluate message for all clients that it names."""
    request = prepared.on_device(request)
    memories = load_memories(context, request.clients, prepared.initial_memory, request.used)
    reply = evaluation.evaluate(
        prepared.strategy,
        prepared.learner,
        replace(request, clients=tuple(memories), used={}),
        tasks,
        memories,
        prepared.client_batch,
        executor,
        prepared.engine,
    )
    reply = left_out(reply, without_memory(request.clients, memories))
    return Message(write_evaluate_reply(reply, request), reply_to=message)


def left_out(reply: A, rejected: tuple[Rejection, ...]) -> A:
    """Return a reply that also names the clients that could not begin."""
    return replace(reply, rejected=(*reply.rejected, *rejected)) if rejected else reply


def error_reply(message: Message, error: Exception, stage: str) -> Message:
    """Report a failure to the server, without texts that could quote a client's data."""
    logger.exception("%s failed", stage, exc_info=error)
    return Message(Error(CLIENT_APP_RAISED, said_of(error, stage)), reply_to=message)


def _only(
    task: OwnTask, asked: Callable[..., Asked], request: TrainRequest | EvaluateRequest
) -> Tasks:
    """Return what makes the task of the one client of a node."""

    def tasks(clients: Sequence[int]) -> list[TaskGroup]:
        (client,) = clients
        known = (client, request.seed, request.shared_statistics)
        made = task if isinstance(task, Task) else task(asked(*known))
        return [TaskGroup((client,), stack([made]))]

    torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
    return tasks
