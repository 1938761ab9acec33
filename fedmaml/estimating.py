"""What a run will cost, before it runs.

    bytes          the run's own requests and replies of one round, made and serialised
    operations     one client's update for each shape of task, run once under the counters
    memory         of the same update
    seconds        only if asked for: a few real rounds (`fedmaml.profiling`)

Bytes of tensors are exact. So are operations, if the clients looked at have the shapes of all: in
each of the first rounds every client of the cohort is, or `MOST_CLIENTS` of it, evenly spaced.
docs/costs.md holds estimates against runs.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message

from fedmaml.client import work
from fedmaml.client.app import app as client_app
from fedmaml.client.chunks import Tasks, task_groups
from fedmaml.client.costs import Costs, cost_of_update
from fedmaml.client.engines import Job
from fedmaml.client.gathering import smaller_form
from fedmaml.client.workbench import Workbench, workbench
from fedmaml.config import RunConfig, to_run_config
from fedmaml.core.aggregation import SPACINGS, ExactSum
from fedmaml.core.costs import Computation
from fedmaml.core.params import count_bytes, count_entries
from fedmaml.core.records import Rejection
from fedmaml.flower_internals import message_bytes, set_message_id
from fedmaml.messages.train import (
    TrainReply,
    TrainRequest,
    read_train_request,
    write_train_reply,
)
from fedmaml.preflight import preflight
from fedmaml.server.app import flower_strategy
from fedmaml.server.cohort import RollCall, call_roll, choose
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.simulations.backends.in_process import InProcessGrid

MOST_CLIENTS = 256
"""So many clients of a cohort are looked at, at most."""
MOST_ROUNDS = 3
"""In so many rounds, at most: shapes may differ from round to round."""


@dataclass(frozen=True)
class Amount:
    """What some rounds take; the names mean what they mean in `fedmaml.core.costs.Cost`.

    Attributes:
        clients: Clients asked.
        payload_bytes_down: Tensors that they receive, as sites of one client each.
        payload_bytes_up: Tensors that they send.
        message_bytes_down: Messages to nodes, as Flower serialises them.
        message_bytes_up: Replies of nodes.
        flops: Operations of all clients.
    """

    clients: int = 0
    payload_bytes_down: int = 0
    payload_bytes_up: int = 0
    message_bytes_down: int = 0
    message_bytes_up: int = 0
    flops: int = 0

    @property
    def payload_bytes(self) -> int:
        """Down plus up."""
        return self.payload_bytes_down + self.payload_bytes_up

    @property
    def message_bytes(self) -> int:
        """Down plus up."""
        return self.message_bytes_down + self.message_bytes_up

    def times(self, rounds: int) -> "Amount":
        """Return what so many such rounds take."""
        return Amount(**{name: rounds * value for name, value in asdict(self).items()})


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Attributes:
        scenario: Name in the catalogue.
        strategy: Name in the catalogue.
        backend: How messages travel.
        rounds: Rounds of training.
        engine: What will compute, and why.
        per_round: One round of training.
        training: All of them.
        per_client: One client in one round; a mean where clients differ.
        peak_bytes: Most memory of any client's update, beside its inputs; None if not measurable.
        clients_measured: Clients whose shapes were looked at.
        shapes: How many different shapes they have.
    """

    scenario: str
    strategy: str
    backend: str
    rounds: int
    engine: str
    per_round: Amount
    training: Amount
    per_client: Amount
    peak_bytes: int | None
    clients_measured: int
    shapes: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Rehearsal:
    """A run that is ready for its first round, in this process.

    Attributes:
        config: What is to run.
        bench: What a node works with.
        roll_call: Which node hosts whom.
        server: The server's side.
    """

    config: RunConfig
    bench: Workbench
    roll_call: RollCall
    server: FlowerStrategy

    def cohort(self, round: int) -> list[int]:
        """Return whom the run will ask in a round."""
        population = self.roll_call.population("train")
        return choose(self.config.seed, round, population, self.config.clients)

    def requests(self, round: int, cohort: Sequence[int]) -> list[tuple[Message, TrainRequest]]:
        """Return the messages of a round, and what they say."""
        messages = self.server.train_messages(round, self.roll_call, cohort)
        for message in messages:
            set_message_id(message, str(uuid.uuid4()))
        return [(message, read_train_request(message.content)) for message in messages]

    def tasks(self, request: TrainRequest) -> Tasks:
        """Return where the tasks of a request come from."""
        return self.bench.tasks("train", request.round, request.common)


def rehearse(config: RunConfig) -> Rehearsal:
    """Do what a run does before its first round.

    Raises:
        FedmamlError: If strategy, scenario or data do not work; as `running.execute`.
    """
    preflight(config)
    run_config = to_run_config(config, Path())
    grid = InProcessGrid(client_app, config.nodes, run_config)
    roll_call = call_roll(grid, config.nodes, config.timeout)
    server = flower_strategy(config, config.make_problem(), roll_call)
    return Rehearsal(config, workbench(run_config), roll_call, server)


def estimate(config: RunConfig) -> Estimate:
    """Return what a run will cost; computes a few updates, trains nothing.

    Raises:
        FedmamlError: If strategy, scenario or data do not work; as `running.execute`.
    """
    ready = rehearse(config)
    cohort = ready.cohort(1)
    requests = ready.requests(1, cohort)
    looked_at = _looked_at(ready)
    told = [computation for computation in looked_at if computation is not None]
    each = sum(computation.flops for computation in told) / len(told) if told else 0.0
    sizes = _message_sizes(ready, requests)
    meta, common = requests[0][1].meta, requests[0][1].common
    down, up = count_bytes(meta | {"common": common}), count_bytes(meta)
    per_round = Amount(
        clients=len(cohort),
        payload_bytes_down=len(cohort) * down,
        payload_bytes_up=len(cohort) * up,
        message_bytes_down=sum(size for size, _ in sizes),
        message_bytes_up=sum(size for _, size in sizes),
        flops=round(len(cohort) * each),
    )
    return Estimate(
        scenario=config.scenario,
        strategy=config.strategy,
        backend=config.backend,
        rounds=config.rounds,
        engine=ready.bench.engine,
        per_round=per_round,
        training=per_round.times(config.rounds),
        per_client=Amount(
            1,
            down,
            up,
            round(per_round.message_bytes_down / len(cohort)),
            round(per_round.message_bytes_up / len(cohort)),
            round(each),
        ),
        peak_bytes=max((computation.peak_bytes for computation in told), default=None),
        clients_measured=len(told),
        shapes=len(set(told)),
    )


def _looked_at(ready: Rehearsal) -> list[Computation | None]:
    """Return what updates take, of clients of the first rounds."""
    costs: Costs = {}
    found: list[Computation | None] = []
    method = ready.bench.method
    for number in range(1, max(1, min(ready.config.rounds, MOST_ROUNDS)) + 1):
        cohort = ready.cohort(number)
        some = cohort[:: -(-len(cohort) // MOST_CLIENTS)]
        for _, request in ready.requests(number, some):
            request = method.on_device(request)
            job = Job(method.strategy, method.learner, request.meta)
            rejected: list[Rejection] = []
            for groups in task_groups(request, ready.tasks(request), method.learner, rejected):
                for group in groups:
                    cost = cost_of_update(job, method.blank, group, costs)
                    found += [cost] * len(group.clients)
    return found


def _message_sizes(
    ready: Rehearsal, requests: Iterable[tuple[Message, TrainRequest]]
) -> list[tuple[int, int]]:
    """Return the bytes of each node's request and reply, one serialised for each number of clients.

    One client computes a real update; the replies repeat its numbers for every client of a node.
    """
    sizes: dict[int, tuple[int, int]] = {}
    single: TrainReply | None = None
    counts = []
    for message, request in requests:
        count = len(request.clients)
        counts.append(count)
        if count not in sizes:
            if single is None:
                single = _single_reply(ready, request)
            content = write_train_reply(_widened(single, request))
            reply = Message(content, reply_to=message)
            sizes[count] = message_bytes(message), message_bytes(reply)
    return [sizes[count] for count in counts]


def _single_reply(ready: Rehearsal, request: TrainRequest) -> TrainReply:
    """Return the reply to a request for one client."""
    method = ready.bench.method
    client = request.clients[0]
    alone = method.on_device(replace(request, clients=(client,)))
    memories = {client: method.blank}
    tasks = ready.tasks(request)
    reply = work.train(method.strategy, method.learner, alone, tasks, memories, 1).reply
    return replace(reply, engine=ready.bench.engine.partition(":")[0])


def _widened(reply: TrainReply, request: TrainRequest) -> TrainReply:
    """Return a reply of the size that a node's will have, from that of one of its clients."""
    count = len(request.clients)
    stacks, sums = {}, {}
    for position, (group, params) in enumerate(request.meta.items()):
        entries = count_entries({group: params})
        stacks[group] = _filler(count, entries, position).to(next(iter(params.values())).dtype)
        limbs = _filler(len(SPACINGS), entries, position)
        sums[group] = ExactSum(limbs, float(count), count)
    return replace(
        reply,
        clients=request.clients,
        weights=reply.weights * count,
        metrics={name: values * count for name, values in reply.metrics.items()},
        computations=reply.computations * count,
        update=stacks if smaller_form(request) == "stack" else sums,
    )


def _filler(rows: int, columns: int, position: int) -> torch.Tensor:
    """Return numbers of which no two parts are alike: Flower sends equal arrays only once."""
    numbers = torch.arange(rows * columns, dtype=torch.float64) + position / 2
    return numbers.view(rows, columns)
