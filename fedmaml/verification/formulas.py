"""Defining formulas of strategies, written a second time: plain loops over an nn.Module.

Nothing here uses the inner loop, the learner's functions or ``torch.func``: only the network, its
parameters in place, and ``torch.autograd.grad``.
"""

import copy
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import torch
from torch import nn

from fedmaml.core.params import MetaParams, Params
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies.base import Initialised

Formula = Callable[[Any, Initialised, MetaParams, Task], MetaParams]


def _fomaml(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return grad L_query at the fast weights, where phi = theta - lr * sum of gradients."""
    network = _network(start, meta["theta"])
    _descend(network, start, task.support, strategy.inner, list(network.named_parameters()))
    loss = start.learner.problem.loss(network(task.query.x), task.query.y).mean()
    names, parameters = zip(*network.named_parameters(), strict=True)
    return {"theta": dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))}


def _local_training(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return theta - phi after gradient descent on support and query, with FedProx's term."""
    network = _network(start, meta["theta"])
    mu = getattr(strategy, "mu", 0.0)
    _descend(
        network, start, _all(task), strategy.inner, list(network.named_parameters()),
        mu=mu, anchor=meta["theta"],
    )  # fmt: skip
    return {"theta": {n: meta["theta"][n] - p.detach() for n, p in network.named_parameters()}}


def _fedrep(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return body - body' after head steps, then body steps, on support and query."""
    network = _network(start, meta["theta"] | start.memory)
    everything = _all(task)
    head = [(n, p) for n, p in network.named_parameters() if n in start.memory]
    body = [(n, p) for n, p in network.named_parameters() if n not in start.memory]
    _descend(network, start, everything, strategy.head, head)
    _descend(network, start, everything, strategy.inner, body)
    return {"theta": {n: meta["theta"][n] - p.detach() for n, p in body}}


def _local(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return the parameters after gradient descent on the support set."""
    network = _network(start, meta["theta"])
    _descend(network, start, task.support, strategy.inner, list(network.named_parameters()))
    return {"theta": {name: value.detach() for name, value in network.named_parameters()}}


FORMULAS: dict[str, tuple[str, Formula]] = {
    "fomaml": ("defining formula: query gradient at the fast weights", _fomaml),
    "reptile": ("defining formula: theta - phi", _local_training),
    "fedavg": ("defining formula: theta - phi", _local_training),
    "fedadam": ("defining formula: theta - phi", _local_training),
    "fedprox": ("defining formula: theta - phi, proximal term in the loss", _local_training),
    "fedrep": ("defining formula: head steps, then body - body'", _fedrep),
    "local": ("defining formula: adapted parameters (nothing is sent)", _local),
}
"""Strategies whose update is not the gradient of their own objective."""


def _network(start: Initialised, params: Params) -> nn.Module:
    network = copy.deepcopy(start.learner.network).requires_grad_(True)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(params[name])
    return network


def _descend(
    network: nn.Module,
    start: Initialised,
    batch: Batch,
    steps: Any,
    chosen: list[tuple[str, nn.Parameter]],
    mu: float = 0.0,
    anchor: Params | None = None,
) -> None:
    problem = start.learner.problem
    for part in _parts(batch, steps):
        loss = problem.loss(network(part.x), part.y).mean()
        for parameter in network.parameters():
            loss = loss + problem.l2 * (parameter**2).sum()
        for name, parameter in chosen:
            if anchor is not None:
                loss = loss + mu / 2 * ((parameter - anchor[name]) ** 2).sum()
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in chosen])
        with torch.no_grad():
            for (_, parameter), gradient in zip(chosen, gradients, strict=True):
                parameter.sub_(steps.lr * gradient)


def _parts(batch: Batch, steps: Any) -> Iterator[Batch]:
    """Yield the examples of each step: all of them, or slices in their order, over and over."""
    rows = len(batch.y)
    size = steps.batch or rows
    slices = [slice(first, first + size) for first in range(0, rows, size)]
    wanted = steps.epochs * len(slices) if steps.epochs else steps.steps
    for cut in islice(cycle(slices), wanted):
        yield Batch({name: value[cut] for name, value in batch.x.items()}, batch.y[cut])


def _all(task: Task) -> Batch:
    support, query = task
    x = {name: torch.cat([value, query.x[name]]) for name, value in support.x.items()}
    return Batch(x, torch.cat([support.y, query.y]))
