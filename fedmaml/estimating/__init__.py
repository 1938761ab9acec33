"""What a run will cost, before it runs.

    bytes          the run's own requests and replies, made and serialised      counting.py
    operations     one client's computation for each shape, under the counters
    memory         of the same; and of this process, if it is timed
    seconds        only if asked for: a few real rounds and an evaluation       timing.py

Bytes of tensors are exact. So are operations, if the clients looked at are those that take part, or
have the shapes of all: looked at are the cohorts of the first `counting.MAX_ROUNDS` rounds, of
large ones `counting.MAX_CLIENTS`, evenly spaced. docs/costs.md holds estimates against runs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedmaml.config import RunConfig
from fedmaml.core.costs import Computation
from fedmaml.core.params import count_bytes
from fedmaml.estimating import counting
from fedmaml.estimating.counting import MessageBytes
from fedmaml.estimating.rehearsal import Rehearsal, rehearse
from fedmaml.estimating.timing import Seconds, time_run

NOT_INCLUDED = {
    "in-process": "",
    "flower-simulation": "computation in one process only: the start of Ray (5 to 10 s) and its "
    "messages are not included, nor that several processes compute at a time",
    "flower-deployment": "computation in one process only: a deployment takes some seconds for "
    "every round and evaluation beside it, mostly to start a process for each message",
}
"""Back end -> what the seconds leave out."""


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

    def shared(self, clients: int) -> "Amount":
        """Return the mean over so many clients."""
        return Amount(**{name: round(value / clients) for name, value in asdict(self).items()})

    def __add__(self, other: "Amount") -> "Amount":
        """Add everything."""
        names = [field.name for field in fields(Amount)]
        return Amount(**{name: getattr(self, name) + getattr(other, name) for name in names})


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
        evaluation: All evaluations, of validation clients during training and of test clients.
        per_client: One client in one round of training; a mean where clients differ.
        peak_bytes: Most memory of any client's update, beside its inputs; None if not measurable.
        clients_measured: Clients whose shapes were looked at.
        shapes: How many different costs they have.
        seconds: None if nothing was timed.
    """

    scenario: str
    strategy: str
    backend: str
    rounds: int
    engine: str
    per_round: Amount
    training: Amount
    evaluation: Amount
    per_client: Amount
    peak_bytes: int | None
    clients_measured: int
    shapes: int
    seconds: Seconds | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"seconds_leave_out": NOT_INCLUDED[self.backend]}


def estimate(config: RunConfig, *, timed: bool = False) -> Estimate:
    """Return what a run will cost; computes a few updates and evaluations.

    Args:
        config: What is to run.
        timed: Carry out a few rounds and an evaluation, too, to tell the seconds; some seconds, or
            three rounds and an evaluation with one chunk of clients if those take longer.

    Raises:
        FedmamlError: If strategy, scenario or data do not work; as `running.execute`.
    """
    ready = rehearse(config)
    seconds = time_run(ready) if timed else None
    computed = counting.cost_of_updates(ready)
    cohort = ready.cohort(1)
    per_round = _amount(ready, len(cohort), computed, counting.training_messages(ready), True)
    evaluation = Amount()
    for split, (clients, count) in ready.evaluated().items():
        evaluated = counting.cost_of_evaluations(ready, split, clients)
        messages = counting.evaluation_messages(ready, split, clients)
        evaluation += _amount(ready, len(clients), evaluated, messages, False).times(count)
    return Estimate(
        scenario=config.scenario,
        strategy=config.strategy,
        backend=config.backend,
        rounds=config.rounds,
        engine=ready.node.engine,
        per_round=per_round,
        training=per_round.times(config.rounds),
        evaluation=evaluation,
        per_client=per_round.shared(len(cohort)),
        peak_bytes=max((each.peak_bytes for each in computed), default=None),
        clients_measured=len(computed),
        shapes=len(set(computed)),
        seconds=seconds,
    )


def _amount(
    ready: Rehearsal,
    clients: int,
    computed: Sequence[Computation],
    messages: MessageBytes,
    updates: bool,
) -> Amount:
    """Put together one round or evaluation; clients that are evaluated send no update."""
    meta, shared_statistics = ready.server.state.meta, ready.roll_call.shared_statistics
    compression = ready.config.compression
    flops = sum(each.flops for each in computed) / len(computed) if computed else 0.0
    return Amount(
        clients=clients,
        payload_bytes_down=clients * count_bytes(meta | {"shared_statistics": shared_statistics}),
        payload_bytes_up=clients * compression.payload_bytes(meta) if updates else 0,
        message_bytes_down=messages.down,
        message_bytes_up=messages.up,
        flops=round(clients * flops),
    )
