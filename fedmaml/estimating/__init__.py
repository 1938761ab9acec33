"""Estimates the cost of a run before it runs.

    bytes          the run's own requests and replies, made and serialised      counting.py
    operations     one client's computation for each shape, under the counters
    memory         of the same; and of this process, if it is timed
    counters       of the examples of the same clients
    seconds        only on request: a few real rounds and an evaluation       timing.py

Bytes of tensors are exact. Operations are exact, too, if the examined clients are all that take
part, or have the shapes of all. Examined are the cohorts of the first `counting.MAX_ROUNDS` rounds;
of large cohorts `counting.MAX_CLIENTS` clients, evenly spaced. docs/costs.md compares estimates
with runs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from fedmaml.config import RunConfig
from fedmaml.core.counters import Units, add_counted
from fedmaml.core.params import count_bytes
from fedmaml.estimating import counting
from fedmaml.estimating.counting import Looked, MessageBytes
from fedmaml.estimating.rehearsal import Rehearsal, rehearse
from fedmaml.estimating.timing import Seconds, time_run
from fedmaml.simulations.backends import BACKENDS


@dataclass(frozen=True)
class Amount:
    """The cost of some rounds; names as in `fedmaml.core.costs.Cost`.

    Attributes:
        clients: Clients selected.
        payload_bytes_down: Tensors that they receive, as sites of one client each.
        payload_bytes_up: Tensors that they send.
        message_bytes_down: Messages to nodes, as Flower serialises them.
        message_bytes_up: Replies of nodes.
        flops: Operations of all clients.
        counters: What the examples of all clients cost, by name of the counter.
    """

    clients: int = 0
    payload_bytes_down: int = 0
    payload_bytes_up: int = 0
    message_bytes_down: int = 0
    message_bytes_up: int = 0
    flops: int = 0
    counters: dict[str, Units] = field(default_factory=dict)

    @property
    def payload_bytes(self) -> int:
        """Down plus up."""
        return self.payload_bytes_down + self.payload_bytes_up

    @property
    def message_bytes(self) -> int:
        """Down plus up."""
        return self.message_bytes_down + self.message_bytes_up

    def shared(self, clients: int) -> "Amount":
        """Return the mean over the clients."""
        means = {name: round(getattr(self, name) / clients) for name in _NUMBERS}
        counters = {name: units / clients for name, units in self.counters.items()}
        return Amount(**means, counters=counters)

    def __add__(self, other: "Amount") -> "Amount":
        """Add everything."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        return Amount(**sums, counters=add_counted((self.counters, other.counters)))


_NUMBERS = [each.name for each in fields(Amount) if each.name != "counters"]


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a run.

    Attributes:
        scenario: Name in the catalogue.
        strategy: Name in the catalogue.
        backend: How messages travel.
        rounds: Rounds of training.
        engine: The engine, and why.
        per_round: One round of training.
        training: All of them.
        evaluation: All evaluations, of validation clients during training and of test clients.
        per_client: One client in one round of training; a mean where clients differ.
        peak_bytes: Most memory of any client's update, beside its inputs; None if not measurable.
        clients_measured: Clients whose shapes were examined.
        shapes: Number of different costs among them.
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
        return asdict(self) | {"seconds_leave_out": BACKENDS[self.backend].not_estimated}


def estimate(config: RunConfig, *, timed: bool = False) -> Estimate:
    """Return the estimated cost of a run; computes a few updates and evaluations.

    Args:
        config: What is to run.
        timed: Carry out a few rounds and an evaluation to estimate seconds. This takes some
            seconds, or three rounds and an evaluation with one chunk of clients if that is longer.

    Raises:
        FedmamlError: If strategy, scenario or data do not work; as `running.execute`.
    """
    ready = rehearse(config)
    seconds = time_run(ready) if timed else None
    looked, messages = counting.cost_of_updates(ready), counting.training_messages(ready)
    cohort = len(ready.cohort(1))
    evaluation = Amount()
    for split, (clients, count) in ready.evaluated().items():
        evaluated = counting.cost_of_evaluations(ready, split, clients)
        answers = counting.evaluation_messages(ready, split, clients)
        evaluation += _amount(ready, count, len(clients), evaluated, answers)
    per_round = _training(ready, 1, cohort, looked, messages)
    computed = looked.computations
    return Estimate(
        scenario=config.scenario,
        strategy=config.strategy,
        backend=config.backend,
        rounds=config.rounds,
        engine=ready.node.engine,
        per_round=per_round,
        training=_training(ready, config.rounds, cohort, looked, messages),
        evaluation=evaluation,
        per_client=per_round.shared(cohort),
        peak_bytes=max((each.peak_bytes for each in computed), default=None),
        clients_measured=len(computed),
        shapes=len(set(computed)),
        seconds=seconds,
    )


def _training(
    ready: Rehearsal, rounds: int, cohort: int, looked: Looked, messages: MessageBytes
) -> Amount:
    """Return the cost of rounds of training, in which clients also send an update."""
    sent = ready.config.compression.payload_bytes(ready.server.state.meta)
    amount = _amount(ready, rounds, cohort, looked, messages)
    return replace(amount, payload_bytes_up=rounds * cohort * sent)


def _amount(
    ready: Rehearsal, times: int, clients: int, looked: Looked, messages: MessageBytes
) -> Amount:
    """Return the cost of rounds, or evaluations; the examined clients stand for all."""
    meta, shared_statistics = ready.server.state.meta, ready.roll_call.shared_statistics
    asked = times * clients

    def of_all(amounts: Sequence[float]) -> int:
        return round(asked * sum(amounts) / len(amounts)) if amounts else 0

    names = looked.counted[0] if looked.counted else {}
    counters = {
        name: Units(
            of_all([each[name].support for each in looked.counted]),
            of_all([each[name].query for each in looked.counted]),
        )
        for name in names
    }
    return Amount(
        clients=asked,
        payload_bytes_down=asked * count_bytes(meta | {"shared_statistics": shared_statistics}),
        message_bytes_down=times * messages.down,
        message_bytes_up=times * messages.up,
        flops=of_all([each.flops for each in looked.computations]),
        counters=counters,
    )
