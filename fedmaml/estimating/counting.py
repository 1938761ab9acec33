"""Bytes and operations of a run that is ready: counted, not timed.

bytes          the run's own requests and replies, made and serialised
operations     one client's computation for each shape of task, run once under the counters
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedmaml.computing import evaluation, updates
from fedmaml.computing.accumulator import smaller_form
from fedmaml.computing.chunks import task_groups
from fedmaml.computing.costs import Costs, costs_of_updates
from fedmaml.computing.counting import count_examples
from fedmaml.computing.engines import Job
from fedmaml.core.aggregation import SPACINGS, ExactSum
from fedmaml.core.costs import Computation
from fedmaml.core.counters import Counted
from fedmaml.core.params import count_entries, to_device
from fedmaml.core.records import Rejection
from fedmaml.core.requests import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from fedmaml.estimating.rehearsal import Rehearsal
from fedmaml.flower_internals import message_bytes, set_message_id
from fedmaml.messages.envelope import Message, RecordDict, reply_to
from fedmaml.messages.evaluate import read_evaluate_request, write_evaluate_reply
from fedmaml.messages.train import read_train_request, write_train_reply

MAX_CLIENTS = 256
"""Most clients of a cohort, or of an evaluation, that are examined."""
MAX_ROUNDS = 50
"""Most rounds that are examined: cohorts and shapes may differ from round to round."""
ENOUGH_CLIENTS = 1000
"""After this number of clients no further round is examined."""


Filler = Callable[[int, int, int], Tensor]
"""Rows, columns, position of the group -> values that fill an update."""


class Looked(NamedTuple):
    """Costs of the examined clients.

    Attributes:
        computations: Cost of each client at which it can be measured.
        counted: Units of the examples of each; empty if the problem has no counters.
    """

    computations: list[Computation]
    counted: list[Counted]


class MessageBytes(NamedTuple):
    """Bytes of messages to all nodes, and of their replies."""

    down: int
    up: int


def evenly(clients: Sequence[int]) -> Sequence[int]:
    """Return all clients, or `MAX_CLIENTS` of them, evenly spaced."""
    return clients[:: -(-len(clients) // MAX_CLIENTS)]


def cost_of_updates(ready: Rehearsal) -> Looked:
    """Return the cost of updates of clients in the first rounds."""
    costs: Costs = {}
    looked_at = 0
    found: list[Computation | None] = []
    counted: list[Counted] = []
    prepared, shared_statistics = ready.node.prepared, ready.roll_call.shared_statistics
    meta = to_device(ready.server.state.meta, prepared.device)
    job = Job(prepared.strategy, prepared.learner, meta)
    for number in range(1, max(1, min(ready.config.rounds, MAX_ROUNDS)) + 1):
        clients = evenly(ready.cohort(number))
        request = TrainRequest(
            number, tuple(clients), meta, shared_statistics=shared_statistics,
            seed=ready.config.seed,
        )  # fmt: skip
        rejected: list[Rejection] = []
        tasks = ready.node.tasks("train", number, shared_statistics)
        for read in task_groups(request, tasks, job, rejected):
            groups, of_these = count_examples(prepared.learner.problem.counters, read, rejected)
            counted += of_these.values()
            initial_memory = dict.fromkeys(clients, prepared.initial_memory)
            for group, cost in zip(
                groups, costs_of_updates(job, initial_memory, groups, costs), strict=True
            ):
                found += [cost] * len(group.clients)
        looked_at += len(clients)
        if looked_at >= ENOUGH_CLIENTS:
            break
    return Looked([computation for computation in found if computation is not None], counted)


def cost_of_evaluations(ready: Rehearsal, split: str, clients: Sequence[int]) -> Looked:
    """Return the cost of evaluating clients; one client of each shape is measured."""
    found: list[Computation] = []
    counted: list[Counted] = []
    for message in _evaluation(ready, split, evenly(clients)):
        request = read_evaluate_request(message.content)
        prepared = ready.node.prepared
        tasks = ready.node.tasks(split, request.round, request.shared_statistics)
        rejected: list[Rejection] = []
        there = prepared.on_device(request)
        job = Job(prepared.strategy, prepared.learner, there.meta)
        for read in task_groups(there, tasks, job, rejected):
            groups, of_these = count_examples(prepared.learner.problem.counters, read, rejected)
            counted += of_these.values()
            for group in groups:
                single = replace(request, clients=group.clients[:1])
                computations = _evaluated(ready, single).computations
                found += list(computations) * len(group.clients)
    return Looked(found, counted)


def training_messages(ready: Rehearsal) -> MessageBytes:
    """Return the bytes of the first round's messages."""
    messages = _training(ready, 1, ready.cohort(1))
    return _serialised(messages, _replies_of_one(ready, _unlike))


def made_up_replies(ready: Rehearsal, messages: list[Message]) -> list[Message]:
    """Return replies to the messages of a round that pass the server's checks; updates are 0."""
    reply = _replies_of_one(ready, _zeros)
    return [reply_to(message, reply(message)) for message in _named(messages)]


def _replies_of_one(ready: Rehearsal, filler: Filler) -> Callable[[Message], RecordDict]:
    """Return a function that replies for all clients of a message with the numbers of one."""
    singles: list[TrainReply] = []

    def reply(message: Message) -> RecordDict:
        request = read_train_request(message.content)
        if not singles:
            singles.append(_trained(ready, request))
        return write_train_reply(_widened(singles[0], request, filler))

    return reply


def evaluation_messages(ready: Rehearsal, split: str, clients: Sequence[int]) -> MessageBytes:
    """Return the bytes of an evaluation's messages."""
    singles: list[EvaluateReply] = []

    def reply(message: Message) -> RecordDict:
        request = read_evaluate_request(message.content)
        if not singles:
            singles.append(_evaluated(ready, replace(request, clients=request.clients[:1])))
        count = len(request.clients)
        values = {name: column * count for name, column in singles[0].values.items()}
        answer = EvaluateReply(
            clients=request.clients,
            values=values,
            rejected=(),
            computations=singles[0].computations * count,
            counted=singles[0].counted * count,
        )
        return write_evaluate_reply(answer, request)

    return _serialised(_evaluation(ready, split, clients), reply)


def _training(ready: Rehearsal, round: int, cohort: Sequence[int]) -> list[Message]:
    return _named(ready.server.train_messages(round, ready.roll_call, cohort))


def _evaluation(ready: Rehearsal, split: str, clients: Sequence[int]) -> list[Message]:
    number = ready.config.rounds
    return _named(ready.server.evaluate_messages(number, split, ready.roll_call, clients))


def _named(messages: list[Message]) -> list[Message]:
    for message in messages:
        set_message_id(message, str(uuid.uuid4()))
    return messages


def _serialised(
    messages: Iterable[Message], reply: Callable[[Message], RecordDict]
) -> MessageBytes:
    """Add up requests and replies, one of each number of clients serialised.

    One client computes a real answer; replies repeat its numbers for every client of a node.
    """
    sizes: dict[int, MessageBytes] = {}
    counts = []
    for message in messages:
        count = len(message.content.config_records["request"]["clients"])  # type: ignore[arg-type]
        counts.append(count)
        if count not in sizes:
            answer = reply_to(message, reply(message))
            sizes[count] = MessageBytes(message_bytes(message), message_bytes(answer))
    return MessageBytes(
        sum(sizes[count].down for count in counts), sum(sizes[count].up for count in counts)
    )


def _trained(ready: Rehearsal, request: TrainRequest) -> TrainReply:
    """Return the reply for one client of a request."""
    prepared = ready.node.prepared
    client = request.clients[0]
    alone = prepared.on_device(replace(request, clients=(client,)))
    memories = {client: prepared.initial_memory}
    tasks = ready.node.tasks("train", request.round, request.shared_statistics)
    reply = updates.train(prepared.strategy, prepared.learner, alone, tasks, memories, 1).reply
    return replace(reply, engines={ready.node.engine.partition(":")[0]: 1})


def _evaluated(ready: Rehearsal, request: EvaluateRequest) -> EvaluateReply:
    prepared = ready.node.prepared
    memories = dict.fromkeys(request.clients, prepared.initial_memory)
    tasks = ready.node.tasks(request.split, request.round, request.shared_statistics)
    request = prepared.on_device(request)
    return evaluation.evaluate(prepared.strategy, prepared.learner, request, tasks, memories, 1)


def _widened(reply: TrainReply, request: TrainRequest, filler: Filler) -> TrainReply:
    """Return a reply of the size that a node's will have, from that of one of its clients."""
    count, stacked = len(request.clients), smaller_form(request) == "stack"
    compressed = stacked and request.compression.compressor() is not None
    rows = count if stacked else len(SPACINGS)
    values = {
        group: filler(rows, count_entries({group: params}), position)
        for position, (group, params) in enumerate(request.meta.items())
    }
    dtype = next(iter(request.meta["theta"].values())).dtype
    stacks = {group: value.to(dtype) for group, value in values.items()}
    sums = {group: ExactSum(value, float(count), count) for group, value in values.items()}
    return replace(
        reply,
        clients=request.clients,
        weights=reply.weights * count,
        metrics={name: values * count for name, values in reply.metrics.items()},
        computations=reply.computations * count,
        counted=reply.counted * count,
        update=_repeated(reply, count) if compressed else stacks if stacked else sums,
    )


def _repeated(reply: TrainReply, count: int) -> dict[str, Tensor]:
    """Repeat one client's compressed update: arbitrary bytes might be no valid code."""
    rows = {group: value for group, value in reply.update.items() if isinstance(value, Tensor)}
    return {group: value.repeat(count, 1) for group, value in rows.items()}


def _unlike(rows: int, columns: int, position: int) -> Tensor:
    """Return numbers of which no two parts are alike: Flower sends equal arrays only once."""
    numbers = torch.arange(rows * columns, dtype=torch.float64) + position / 2
    return numbers.view(rows, columns)


def _zeros(rows: int, columns: int, _position: int) -> Tensor:
    return torch.zeros(rows, columns, dtype=torch.float64)
