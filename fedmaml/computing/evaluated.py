"""Metrics of evaluated clients, by a strategy's own ``adapt`` or of predictions, as columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedmaml.computing.engines.fused.predictions import Predicted
from fedmaml.core.learner import Learner
from fedmaml.core.metrics import Metric
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.tasks import Task, TaskGroup
from fedmaml.strategies.base import MetaStrategy

_ENTRIES = 2**20
"""Predictions whose metrics are computed at a time: a few megabytes."""


class Columns(NamedTuple):
    """Values of some clients.

    Attributes:
        clients: Their numbers.
        values: ``"<column>:<stage>"`` -> one value for each of them.
    """

    clients: tuple[int, ...]
    values: dict[str, Tensor]

    def of(self, clients: tuple[int, ...]) -> dict[str, list[float]]:
        """Return the values of some of the clients, in their order."""
        if clients == self.clients:
            return {name: column.tolist() for name, column in self.values.items()}
        place = {client: row for row, client in enumerate(self.clients)}
        rows = torch.tensor([place[client] for client in clients])
        return {name: column.cpu()[rows].tolist() for name, column in self.values.items()}


def joined(parts: Sequence[Columns]) -> Columns:
    """Return the columns of all parts."""
    if len(parts) == 1:
        return parts[0]
    clients = tuple(client for part in parts for client in part.clients)
    names = parts[0].values if parts else ()
    values = {name: torch.cat([part.values[name] for part in parts]) for name in names}
    return Columns(clients, values)


def metrics_of(
    learner: Learner,
    meta: MetaParams,
    stages: Mapping[str, MetaStrategy],
    shared_statistics: Params,
) -> Callable[[Task, Params], dict[str, Tensor]]:
    """Return the function (task, memory) -> ``"<column>:<stage>"`` -> value."""

    def metrics(task: Task, memory: Params) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for stage, adapting in stages.items():
            predictor = adapting.adapt(learner, meta, memory, task.support)
            prediction = predictor(task.query.x)
            for metric in learner.problem.metrics:
                found = metric.values(prediction, task.query.y, shared_statistics)
                values |= {f"{column}:{stage}": value for column, value in found.items()}
        return values

    return metrics


def metrics_of_predictions(
    metrics: Sequence[Metric],
    groups: Sequence[TaskGroup],
    predictions: Sequence[Predicted],
    at_stage: Mapping[str, int],
    shared_statistics: Params,
) -> Iterator[Columns]:
    """Yield the metrics of predictions, of all clients and stages of equal shape at once.

    Args:
        metrics: Of the problem.
        groups: The clients' tasks, whose queries were predicted.
        predictions: Of each group, at numbers of steps.
        at_stage: Stage -> its place among the numbers of steps.
        shared_statistics: Of the scenario.
    """
    names = [name for metric in metrics for name in metric.columns]
    alike: dict[object, list[int]] = {}
    for at, group in enumerate(groups):
        y = group.tasks.query.y
        alike.setdefault((predictions[at].values.shape[2:], y.shape[1:], y.dtype), []).append(at)
    for members in alike.values():
        whole, sound = (
            _cat(parts, 1) for parts in zip(*(predictions[at] for at in members), strict=True)
        )
        y = _cat([groups[at].tasks.query.y for at in members], 0)
        clients = tuple(client for at in members for client in groups[at].clients)
        size = max(1, _ENTRIES * len(clients) // whole.numel())
        pieces = zip(
            torch.split(whole, size, 1),
            torch.split(sound, size, 1),
            torch.split(y, size),
            strict=True,
        )
        found = [
            _values(metrics, Predicted(some, good), own, shared_statistics)
            for some, good, own in pieces
        ]
        values = {name: _cat([piece[name] for piece in found], 1) for name in names}
        yield Columns(
            clients,
            {
                f"{name}:{stage}": values[name][at]
                for stage, at in at_stage.items()
                for name in names
            },
        )


def _values(
    metrics: Sequence[Metric], predicted: Predicted, y: Tensor, shared_statistics: Params
) -> dict[str, Tensor]:
    """Return column -> ``(numbers of steps, clients)``."""
    found: dict[str, Tensor] = {}
    for metric in metrics:

        def one(
            prediction: Tensor, y: Tensor, sound: Tensor, metric: Metric = metric
        ) -> dict[str, Tensor]:
            return metric.values(prediction, y, shared_statistics, sound)

        of_clients = torch.func.vmap(one)
        at_all_steps = torch.func.vmap(of_clients, in_dims=(0, None, 0))
        found |= at_all_steps(predicted.values, y, predicted.sound)
    return found


def _cat(parts: tuple[Tensor, ...] | list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
