"""What came of a round or an evaluation: who counts, means, and what clients received and did."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedmaml.core.costs import Cost
from fedmaml.core.counters import add_counted
from fedmaml.core.metrics import mean_metrics
from fedmaml.core.params import count_bytes
from fedmaml.core.records import Rejection
from fedmaml.core.requests import EvaluateReply, TrainReply, TrainRequest


@dataclass(frozen=True)
class Outcome:
    """What came of the last round of training.

    Attributes:
        cohort: Clients asked.
        clients: Clients whose updates were used, ascending.
        weight: Sum of their num-examples.
        metrics: Weighted means.
        rejected: What was left out, and why.
        cost: Tensors sent and operations done; messages and seconds are the Grid's to count.
    """

    cohort: int
    clients: tuple[int, ...]
    weight: float
    metrics: dict[str, float]
    rejected: tuple[Rejection, ...]
    cost: Cost


def outcome_of(
    requests: Sequence[TrainRequest], sound: Sequence[TrainReply], rejected: Sequence[Rejection]
) -> Outcome:
    """Put together what came of a round; clients in ascending order, whoever answered first."""
    rows = sorted(
        (
            (client, reply.weights[i], {name: column[i] for name, column in reply.metrics.items()})
            for reply in sound
            for i, client in enumerate(reply.clients)
        ),
        key=lambda row: row[0],
    )
    names = dict.fromkeys(name for _, _, row in rows for name in row)
    columns = {name: [row.get(name, float("nan")) for _, _, row in rows] for name in names}
    weights = [weight for _, weight, _ in rows]
    return Outcome(
        cohort=sum(len(request.clients) for request in requests),
        clients=tuple(client for client, _, _ in rows),
        weight=sum(weights),
        metrics=mean_metrics(columns, weights),
        rejected=tuple(rejected),
        cost=_cost_of_training(requests, sound),
    )


def _cost_of_training(requests: Sequence[TrainRequest], sound: Sequence[TrainReply]) -> Cost:
    """Count what the clients of a round receive, compute and send, each a site of its own."""
    if not requests:
        return Cost()
    one = requests[0]  # but for their clients all are the same
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


def cost_of_evaluation(asked: int, answers: Sequence[EvaluateReply]) -> Cost:
    """Count what the clients of an evaluation compute, of so many asked; they send no updates."""
    return replace(_computed(answers), clients=asked)


def _computed(replies: Sequence[TrainReply | EvaluateReply]) -> Cost:
    computed = [computation for reply in replies for computation in reply.computations]
    return Cost(
        updates_measured=len(computed),
        flops=sum(computation.flops for computation in computed),
        peak_bytes=max((computation.peak_bytes for computation in computed), default=None),
        counters=add_counted(each for reply in replies for each in reply.counted),
    )
