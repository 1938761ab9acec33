"""Defining formulas of iMAML and Ditto, in matrices and plain loops, for ``check-gradients``."""

from typing import Any

import torch
from torch import Tensor

from fedmaml.core.params import MetaParams, Params, flatten, layout_of, unflatten
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies.base import Initialised
from fedmaml.verification.formulas import Formula, _all, _descend, _network


def mean_loss(start: Initialised, layout: Any, point: Tensor, batch: Batch) -> Tensor:
    """Return the mean loss without penalty at a flat vector of parameters."""
    predictions = start.learner.apply(unflatten(point, layout), batch.x)
    return start.learner.problem.loss(predictions, batch.y).mean()


def system(
    strategy: Any, start: Initialised, meta: MetaParams, task: Task
) -> tuple[Tensor, Tensor]:
    """Return I + H / lam and grad L_query, dense, where plain proximal descent ends."""
    theta = meta["theta"]
    network = _network(start, theta)
    named = list(network.named_parameters())
    _descend(network, start, task.support, strategy.inner, named, mu=strategy.lam, anchor=theta)
    layout, l2 = layout_of(theta), start.learner.problem.l2
    phi = flatten({name: parameter.detach() for name, parameter in named})
    hessian = torch.autograd.functional.hessian(
        lambda point: mean_loss(start, layout, point, task.support) + l2 * point.square().sum(), phi
    )
    slope = torch.autograd.functional.jacobian(
        lambda point: mean_loss(start, layout, point, task.query), phi
    )
    return torch.eye(len(phi), dtype=phi.dtype) + hessian / strategy.lam, slope


def imaml(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return what k conjugate steps yield: the best x in span{g, A g, ..., A^(k-1) g}.

    Best means smallest error in the norm of A, so x = V (V' A V)^-1 V' g, V any basis.
    """
    matrix, slope = system(strategy, start, meta, task)
    columns = [slope]
    for _ in range(strategy.conjugate - 1):
        columns.append(matrix @ columns[-1] / columns[-1].norm())
    basis, _ = torch.linalg.qr(torch.stack(columns, 1))
    solution = basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ slope)
    return {"theta": unflatten(solution, layout_of(meta["theta"]))}


def ditto(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return theta - w after gradient descent on support and query; v leaves no trace in it."""
    network = _network(start, meta["theta"])
    _descend(network, start, _all(task), strategy.inner, list(network.named_parameters()))
    return {"theta": {n: meta["theta"][n] - p.detach() for n, p in network.named_parameters()}}


def ditto_personal(
    strategy: Any, start: Initialised, meta: MetaParams, own: Params, batch: Batch
) -> Params:
    """Return v after proximal descent from ``own``."""
    network = _network(start, own)
    named = list(network.named_parameters())
    _descend(
        network, start, batch, strategy.adaptation, named, mu=strategy.lam, anchor=meta["theta"]
    )
    return {name: parameter.detach() for name, parameter in named}


FORMULAS: dict[str, tuple[str, Formula]] = {
    "imaml": ("implicit formula: projection of (I + H/lam)^-1 grad on a Krylov space", imaml),
    "ditto": ("defining formula: theta - w", ditto),
}
