"""The implicit gradient of iMAML, by dense matrices and a basis of the Krylov space."""

from typing import Any

import torch
from torch import Tensor

from fedmaml.core.params import MetaParams, flatten, layout_of, unflatten
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies.base import Initialised
from fedmaml.verification.plain import descend, network_at


def _mean_loss(start: Initialised, layout: Any, point: Tensor, batch: Batch) -> Tensor:
    """Return the mean loss without penalty at a flat vector of parameters."""
    predictions = start.learner.apply(unflatten(point, layout), batch.x)
    return start.learner.problem.loss(predictions, batch.y).mean()


def system(
    strategy: Any, start: Initialised, meta: MetaParams, task: Task
) -> tuple[Tensor, Tensor]:
    """Return I + H / lam and grad L_query, dense, where plain proximal descent ends."""
    theta = meta["theta"]
    network = network_at(start, theta)
    named = list(network.named_parameters())
    descend(network, start, task.support, strategy.inner, named, mu=strategy.lam, anchor=theta)
    layout, l2 = layout_of(theta), start.learner.problem.l2
    phi = flatten({name: parameter.detach() for name, parameter in named})
    hessian = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        lambda point: _mean_loss(start, layout, point, task.support) + l2 * point.square().sum(),
        phi,
    )
    slope = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
        lambda point: _mean_loss(start, layout, point, task.query), phi
    )
    return torch.eye(len(phi), dtype=phi.dtype) + hessian / strategy.lam, slope


def implicit(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return what k conjugate steps yield: the best x in span{g, A g, ..., A^(k-1) g}.

    Best means smallest error in the norm of A, so x = V (V' A V)^-1 V' g, V any basis.
    """
    solution = krylov_solution(*system(strategy, start, meta, task), strategy.conjugate)
    return {"theta": unflatten(solution, layout_of(meta["theta"]))}


def krylov_solution(matrix: Tensor, slope: Tensor, steps: int) -> Tensor:
    """Return the best x in span{g, A g, ..., A^(steps-1) g} for A x = g."""
    columns = [slope]
    for _ in range(steps - 1):
        columns.append(matrix @ columns[-1] / columns[-1].norm())
    basis, _ = torch.linalg.qr(torch.stack(columns, 1))
    return basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ slope)
