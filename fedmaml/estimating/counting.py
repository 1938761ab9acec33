"""Bytes and operations of a run that is ready: counted, not timed.

bytes          the run's own requests and replies, made and serialised
operations     one client's computation for each shape of task, run once under the counters
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from flwr.app import Message, RecordDict
from torch import Tensor

from fedmaml.client import judging, work
from fedmaml.client.chunks import task_groups
from fedmaml.client.costs import Costs, costs_of_updates
from fedmaml.client.engines import Job
from fedmaml.client.gathering import smaller_form
from fedmaml.core.aggregation import SPACINGS, ExactSum
from fedmaml.core.costs import Computation
from fedmaml.core.params import count_entries, to_device
from fedmaml.core.records import Rejection
from fedmaml.estimating.rehearsal import Rehearsal
from fedmaml.flower_internals import message_bytes, set_message_id
from fedmaml.messages.evaluate import (
    EvaluateReply,
    EvaluateRequest,
    read_evaluate_request,
    write_evaluate_reply,
)
from fedmaml.messages.train import (
    TrainReply,
    TrainRequest,
    read_train_request,
    write_train_reply,
)

MOST_CLIENTS = 256
"""So many clients of a cohort, or of those to be judged, are looked at, at most."""
MOST_ROUNDS = 50
"""In so many rounds, at most: cohorts and shapes may differ from round to round."""
ENOUGH_CLIENTS = 1000
"""No further round is looked at after so many clients."""


Filler = Callable[[int, int, int], Tensor]
"""Rows, columns, position of the group -> what an update is filled with."""


class MessageBytes(NamedTuple):
    """Bytes of messages to all nodes, and of their replies."""

    down: int
    up: int


def evenly(clients: Sequence[int]) -> Sequence[int]:
    """Return all clients, or `MOST_CLIENTS` of them, evenly spaced."""
    return clients[:: -(-len(clients) // MOST_CLIENTS)]


def updates(ready: Rehearsal) -> list[Computation]:
    """Return what updates take, of clients of the first rounds."""
    costs: Costs = {}
    looked_at = 0
    found: list[Computation | None] = []
    method, common = ready.bench.method, ready.roll_call.common
    meta = to_device(ready.server.state.meta, method.device)
    job = Job(method.strategy, method.learner, meta)
    for number in range(1, max(1, min(ready.config.rounds, MOST_ROUNDS)) + 1):
        clients = evenly(ready.cohort(number))
        request = TrainRequest(number, tuple(clients), meta, common=common)
        rejected: list[Rejection] = []
        tasks = ready.bench.tasks("train", number, common)
        for groups in task_groups(request, tasks, method.learner, rejected):
            blank = dict.fromkeys(clients, method.blank)
            for group, cost in zip(
                groups, costs_of_updates(job, blank, groups, costs), strict=True
            ):
                found += [cost] * len(group.clients)
        looked_at += len(clients)
        if looked_at >= ENOUGH_CLIENTS:
            break
    return [computation for computation in found if computation is not None]


def judgements(ready: Rehearsal, split: str, clients: Sequence[int]) -> list[Computation]:
    """Return what judging clients takes; judges one of each shape, the others are counted."""
    found: list[Computation] = []
    for message in _evaluation(ready, split, evenly(clients)):
        request = read_evaluate_request(message.content)
        method = ready.bench.method
        tasks = ready.bench.tasks(split, request.round, request.common)
        rejected: list[Rejection] = []
        for groups in task_groups(method.on_device(request), tasks, method.learner, rejected):
            for group in groups:
                single = replace(request, clients=group.clients[:1])
                computations = _judged(ready, single).computations
                found += list(computations) * len(group.clients)
    return found


def training_messages(ready: Rehearsal) -> MessageBytes:
    """Return the bytes of the first round's messages."""
    messages = _training(ready, 1, ready.cohort(1))
    return _serialised(messages, _replies_of_one(ready, _unlike))


def made_up_replies(ready: Rehearsal, messages: list[Message]) -> list[Message]:
    """Return replies to the messages of a round that the server will believe, updates being 0."""
    reply = _replies_of_one(ready, _zeros)
    return [Message(reply(message), reply_to=message) for message in _named(messages)]


def _replies_of_one(ready: Rehearsal, filler: Filler) -> Callable[[Message], RecordDict]:
    """Return what answers for all clients of a message with what one of them computes."""
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
            singles.append(_judged(ready, replace(request, clients=request.clients[:1])))
        count = len(request.clients)
        values = {name: column * count for name, column in singles[0].values.items()}
        computations = singles[0].computations * count
        return write_evaluate_reply(EvaluateReply(request.clients, values, (), computations))

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
            answer = Message(reply(message), reply_to=message)
            sizes[count] = MessageBytes(message_bytes(message), message_bytes(answer))
    return MessageBytes(
        sum(sizes[count].down for count in counts), sum(sizes[count].up for count in counts)
    )


def _trained(ready: Rehearsal, request: TrainRequest) -> TrainReply:
    """Return the reply for one client of a request."""
    method = ready.bench.method
    client = request.clients[0]
    alone = method.on_device(replace(request, clients=(client,)))
    memories = {client: method.blank}
    tasks = ready.bench.tasks("train", request.round, request.common)
    reply = work.train(method.strategy, method.learner, alone, tasks, memories, 1).reply
    return replace(reply, engine=ready.bench.engine.partition(":")[0])


def _judged(ready: Rehearsal, request: EvaluateRequest) -> EvaluateReply:
    method = ready.bench.method
    memories = dict.fromkeys(request.clients, method.blank)
    tasks = ready.bench.tasks(request.split, request.round, request.common)
    request = method.on_device(request)
    return judging.evaluate(method.strategy, method.learner, request, tasks, memories, 1)


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
        update=_repeated(reply, count) if compressed else stacks if stacked else sums,
    )


def _repeated(reply: TrainReply, count: int) -> dict[str, Tensor]:
    """Return one client's compressed update for many: any other bytes might be no code."""
    rows = {group: value for group, value in reply.update.items() if isinstance(value, Tensor)}
    return {group: value.repeat(count, 1) for group, value in rows.items()}


def _unlike(rows: int, columns: int, position: int) -> Tensor:
    """Return numbers of which no two parts are alike: Flower sends equal arrays only once."""
    numbers = torch.arange(rows * columns, dtype=torch.float64) + position / 2
    return numbers.view(rows, columns)


def _zeros(rows: int, columns: int, _position: int) -> Tensor:
    return torch.zeros(rows, columns, dtype=torch.float64)
