"""Defining formulas of strategies, written a second time in plain loops (`plain`)."""

from typing import Any

import torch

from fedmaml.core.params import MetaParams
from fedmaml.core.tasks import Task
from fedmaml.strategies.base import Initialised
from fedmaml.verification.evidence import expectation_step
from fedmaml.verification.implicit import implicit
from fedmaml.verification.objectives import truncated
from fedmaml.verification.personalised import PERSONALISED, Formula
from fedmaml.verification.plain import descend, everything, network_at, slopes_at
from fedmaml.verification.recurrent import meta_lstm


def _fomaml(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return grad L_query at the fast weights, where phi = theta - lr * sum of gradients."""
    network = network_at(start, meta["theta"])
    descend(network, start, task.support, strategy.inner, list(network.named_parameters()))
    loss = start.learner.problem.loss(network(task.query.x), task.query.y).mean()
    names, parameters = zip(*network.named_parameters(), strict=True)
    return {"theta": dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))}


def _local_training(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return theta - phi after gradient descent on support and query, with FedProx's term."""
    network = network_at(start, meta["theta"])
    mu = getattr(strategy, "mu", 0.0)
    descend(
        network, start, everything(task), strategy.inner, list(network.named_parameters()),
        mu=mu, anchor=meta["theta"],
    )  # fmt: skip
    return {"theta": {n: meta["theta"][n] - p.detach() for n, p in network.named_parameters()}}


def _fedrep(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return body - body' after head steps, then body steps, on support and query."""
    network = network_at(start, meta["theta"] | start.memory)
    local = everything(task)
    head = [(n, p) for n, p in network.named_parameters() if n in start.memory]
    body = [(n, p) for n, p in network.named_parameters() if n not in start.memory]
    descend(network, start, local, strategy.head, head)
    descend(network, start, local, strategy.inner, body)
    return {"theta": {n: meta["theta"][n] - p.detach() for n, p in body}}


def _local(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return the parameters after gradient descent on the support set."""
    network = network_at(start, meta["theta"])
    descend(network, start, task.support, strategy.inner, list(network.named_parameters()))
    return {"theta": {name: value.detach() for name, value in network.named_parameters()}}


def _unadapted(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return grad L at theta, on support and query."""
    del strategy
    return {"theta": slopes_at(start, meta["theta"], everything(task))}


FORMULAS: dict[str, tuple[str, Formula]] = {
    "fomaml": ("defining formula: query gradient at the fast weights", _fomaml),
    "reptile": ("defining formula: theta - phi", _local_training),
    "fedavg": ("defining formula: theta - phi", _local_training),
    "fedadam": ("defining formula: theta - phi", _local_training),
    "fedprox": ("defining formula: theta - phi, proximal term in the loss", _local_training),
    "fedrep": ("defining formula: head steps, then body - body'", _fedrep),
    "meta_gradient_descent": ("defining formula: gradient at theta", _unadapted),
    "truncated": ("finite differences, the gradients of the first steps held constant", truncated),
    "meta_lstm": ("finite differences, the gradients of the steps held constant", meta_lstm),
    "imaml": ("implicit formula: projection of (I + H/lam)^-1 grad on a Krylov space", implicit),
    **PERSONALISED,
    "empirical_bayes": ("finite differences of the evidence, scaled (EM)", expectation_step),
    "local": ("defining formula: adapted parameters (nothing is sent)", _local),
}
"""Strategies whose update is not the gradient of their own objective."""
