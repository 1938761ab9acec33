"""Replies of one round -> one update: the weighted mean, or one of Flower's robust rules."""

from collections.abc import Mapping, Sequence

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedmaml.config import Aggregation
from fedmaml.config.checks import fewest_updates
from fedmaml.core.aggregation import ExactSum, exact_sum
from fedmaml.core.errors import MessageError
from fedmaml.core.params import MetaParams, layout_of, unflatten
from fedmaml.core.requests import TrainReply
from fedmaml.messages.arrays import to_array

_NAMES = {"Krum": "krum", "MultiKrum": "multi-krum", "Bulyan": "bulyan"}


def weighted_mean(replies: Sequence[TrainReply], meta: MetaParams) -> MetaParams:
    """Return sum(weight * update) / sum(weight), the same bits for every order and grouping."""
    totals: dict[str, ExactSum] = {}
    for reply in replies:
        weights = torch.tensor(reply.weights, dtype=torch.float64)
        for group, value in reply.update.items():
            part = value if isinstance(value, ExactSum) else exact_sum(value, weights)
            totals[group] = totals[group] + part if group in totals else part
    return {group: unflatten(totals[group].mean(), layout_of(meta[group])) for group in meta}


def robust_rule(settings: Aggregation) -> Strategy | None:
    """Return Flower's strategy for a rule; None for the mean."""
    from flwr.serverapp import strategy as flower

    malicious = settings.malicious
    if settings.rule == "median":
        return flower.FedMedian()
    if settings.rule == "trimmed-mean":
        return flower.FedTrimmedAvg(beta=settings.trim)
    if settings.rule == "krum":
        return flower.Krum(num_malicious_nodes=malicious)
    if settings.rule == "multi-krum":
        return flower.MultiKrum(
            num_malicious_nodes=malicious, num_nodes_to_select=settings.selected
        )
    if settings.rule == "bulyan":
        return flower.Bulyan(num_malicious_nodes=malicious)
    return None


def apply_rule(
    rule: Strategy, replies: Sequence[TrainReply], meta: MetaParams, round: int
) -> MetaParams:
    """Let a Flower strategy aggregate the single updates, handed over in client order.

    Raises:
        MessageError: "RULE", if the rule has no result for these replies.
    """
    singles: dict[int, tuple[float, Mapping[str, Tensor]]] = {}
    for reply in replies:
        for position, client in enumerate(reply.clients):
            vectors = {group: _row(value, position) for group, value in reply.update.items()}
            singles[client] = reply.weights[position], vectors
    messages = [_single_reply(*singles[client]) for client in sorted(singles)]
    _refuse_too_few(rule, len(messages))
    try:
        arrays, _ = rule.aggregate_train(round, messages)
    except Exception as error:  # Flower's rules raise many kinds when there are too few replies
        raise MessageError(
            "RULE", f"{type(rule).__name__} failed on {len(messages)} updates: {error}"
        ) from error
    if not arrays:
        raise MessageError(
            "RULE",
            f"{type(rule).__name__} gave no result for {len(messages)} updates; it needs "
            "more clients for the number of malicious ones it is to withstand",
        )
    return {
        group: unflatten(torch.from_numpy(arrays[group].numpy()), layout_of(params))
        for group, params in meta.items()
    }


def _refuse_too_few(rule: Strategy, updates: int) -> None:
    """Refuse fewer updates than a rule withstands: Flower's Krum would choose among them anyway."""
    name, malicious = type(rule).__name__, getattr(rule, "num_malicious_nodes", 0)
    least = fewest_updates(_NAMES.get(name, ""), malicious)
    if updates < least:
        raise MessageError(
            "RULE",
            f"{name} needs {least} updates to withstand {malicious}, and there are {updates}",
        )


def _row(value: Tensor | ExactSum, position: int) -> Tensor:
    if isinstance(value, ExactSum):
        raise MessageError("RULE", "a robust rule needs single updates, a node sent a sum")
    return value[position]


def _single_reply(weight: float, vectors: Mapping[str, Tensor]) -> Message:
    arrays = ArrayRecord({group: to_array(vector) for group, vector in vectors.items()})
    metrics = MetricRecord({"num-examples": weight})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), 0, "train")
