"""Results of a round or an evaluation: clients used, means, and costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedmaml.core.costs import Cost
from fedmaml.core.counters import add_counted
from fedmaml.core.metrics import mean_metrics
from fedmaml.core.params import count_bytes
from fedmaml.core.records import Rejection
from fedmaml.core.requests import EvaluateReply, TrainReply, TrainRequest


@dataclass(frozen=True)
class RoundResult:
    """The result of a round of training.

    Attributes:
        cohort: Number of clients selected.
        clients: Clients whose updates were used, ascending.
        weight: Sum of their num-examples.
        metrics: Weighted means.
        rejected: Updates that were left out, with the reason.
        cost: Tensors and operations; the Grid counts messages and seconds.
    """

    cohort: int
    clients: tuple[int, ...]
    weight: float
    metrics: dict[str, float]
    rejected: tuple[Rejection, ...]
    cost: Cost


def result_of_round(
    requests: Sequence[TrainRequest], sound: Sequence[TrainReply], rejected: Sequence[Rejection]
) -> RoundResult:
    """Return the result of a round; clients in ascending order, whoever answered first."""
    clients = [client for reply in sound for client in reply.clients]
    order = sorted(range(len(clients)), key=clients.__getitem__)
    columns = {
        name: _column(name, sound, order)
        for name in dict.fromkeys(name for reply in sound for name in reply.metrics)
    }
    every_weight = [weight for reply in sound for weight in reply.weights]
    weights = [every_weight[position] for position in order]
    return RoundResult(
        cohort=sum(len(request.clients) for request in requests),
        clients=tuple(clients[position] for position in order),
        weight=sum(weights),
        metrics=mean_metrics(columns, weights),
        rejected=tuple(rejected),
        cost=_cost_of_training(requests, sound),
    )


def _column(name: str, sound: Sequence[TrainReply], order: Sequence[int]) -> list[float]:
    """Return a metric of all clients in an order; NaN for those of replies without it."""
    values: list[float] = []
    for reply in sound:
        values += reply.metrics.get(name) or [math.nan] * len(reply.clients)
    return [values[position] for position in order]


def _cost_of_training(requests: Sequence[TrainRequest], sound: Sequence[TrainReply]) -> Cost:
    """Count what the clients of a round receive, compute and send, each a site of its own."""
    if not requests:
        return Cost()
    one = requests[0]  # all are the same except for their clients
    clients = sum(len(request.clients) for request in requests)
    updates = sum(len(reply.clients) for reply in sound)
    return replace(
        _computed(sound),
        clients=clients,
        updates=updates,
        payload_bytes_down=clients
        * count_bytes(one.meta | {"shared_statistics": one.shared_statistics}),
        payload_bytes_up=updates * one.compression.payload_bytes(one.meta),
    )


def cost_of_evaluation(clients: int, replies: Sequence[EvaluateReply]) -> Cost:
    """Return the cost of evaluating ``clients`` clients; they send no updates."""
    return replace(_computed(replies), clients=clients)


def _computed(replies: Sequence[TrainReply | EvaluateReply]) -> Cost:
    computed = [computation for reply in replies for computation in reply.computations]
    return Cost(
        updates_measured=len(computed),
        flops=sum(computation.flops for computation in computed),
        peak_bytes=max((computation.peak_bytes for computation in computed), default=None),
        counters=add_counted(each for reply in replies for each in reply.counted),
    )
