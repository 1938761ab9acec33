"""What defining formulas are written with: an nn.Module, its parameters in place, plain autograd.

Nothing here uses the inner loop, the learner's functions or ``torch.func``.
"""

import copy
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from fedmaml.core.params import Params
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies.base import Initialised

Named = list[tuple[str, nn.Parameter]]


def network_at(start: Initialised, params: Params) -> nn.Module:
    """Return a network of its own with these parameters."""
    network = copy.deepcopy(start.learner.network).requires_grad_(True)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(params[name])
    return network


def values_of(network: nn.Module) -> Params:
    """Return a network's parameters as constants."""
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def loss_at(start: Initialised, network: nn.Module, batch: Batch, penalty: bool = True) -> Tensor:
    """Return the mean loss over a batch, with the penalty of training or without."""
    problem = start.learner.problem
    loss = problem.loss(network(batch.x), batch.y).mean()
    for parameter in network.parameters() if penalty else ():
        loss = loss + problem.l2 * (parameter**2).sum()
    return loss


def slopes_at(start: Initialised, params: Params, batch: Batch, penalty: bool = True) -> Params:
    """Return the gradient of the mean loss at a point."""
    network = network_at(start, params)
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss_at(start, network, batch, penalty), parameters)
    return dict(zip(names, found, strict=True))


def descend(
    network: nn.Module,
    start: Initialised,
    batch: Batch,
    steps: Any,
    chosen: Named | None = None,
    mu: float = 0.0,
    anchor: Params | None = None,
) -> nn.Module:
    """Take gradient steps in place, of all parameters or chosen ones; return the network.

    With an anchor the loss has the term mu / 2 ||parameters - anchor||^2.
    """
    chosen = list(network.named_parameters()) if chosen is None else chosen
    for part in parts_of(batch, steps):
        loss = loss_at(start, network, part)
        for name, parameter in chosen:
            if anchor is not None:
                loss = loss + mu / 2 * ((parameter - anchor[name]) ** 2).sum()
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in chosen])
        with torch.no_grad():
            for (_, parameter), gradient in zip(chosen, gradients, strict=True):
                parameter.sub_(steps.lr * gradient)
    return network


def parts_of(batch: Batch, steps: Any) -> Iterator[Batch]:
    """Yield the examples of each step: all of them, or slices in their order, over and over."""
    rows = len(batch.y)
    size = steps.batch or rows
    slices = [slice(first, first + size) for first in range(0, rows, size)]
    wanted = steps.epochs * len(slices) if steps.epochs else steps.steps
    for cut in islice(cycle(slices), wanted):
        yield Batch({name: value[cut] for name, value in batch.x.items()}, batch.y[cut])


def everything(task: Task) -> Batch:
    """Return support and query together."""
    support, query = task
    x = {name: torch.cat([value, query.x[name]]) for name, value in support.x.items()}
    return Batch(x, torch.cat([support.y, query.y]))
