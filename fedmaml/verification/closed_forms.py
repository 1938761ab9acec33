"""What a client sends on f(theta) = 1/2 (theta - c)' A (theta - c), by matrix algebra.

B = I - lr A, k steps, support = query = f unless said otherwise. Training on support and query
together is training on f as well.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Points = dict[str, Tensor]
ClosedForm = Callable[[Any, Points, Tensor, Tensor], Points]


def _maml(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """B^k A B^k (theta - c)."""
    shrink = _shrink(strategy, curvature)
    return {"theta": shrink @ curvature @ shrink @ (point["theta"] - centre)}


def _fomaml(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """A B^k (theta - c)."""
    return {"theta": curvature @ _shrink(strategy, curvature) @ (point["theta"] - centre)}


def _averaging(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """(I - B^k) (theta - c)."""
    distance = point["theta"] - centre
    return {"theta": distance - _shrink(strategy, curvature) @ distance}


def _fedprox(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """theta - phi_k, with C = I - lr (A + mu I): phi_k - phi* = C^k (theta - phi*).

    phi* = (A + mu I)^-1 (A c + mu theta) is the minimum of f(phi) + mu/2 ||phi - theta||^2.
    """
    theta, identity = point["theta"], torch.eye(len(centre), dtype=centre.dtype)
    stiffness = curvature + strategy.mu * identity
    optimum = torch.linalg.solve(stiffness, curvature @ centre + strategy.mu * theta)
    shrink = torch.linalg.matrix_power(
        identity - strategy.inner.lr * stiffness, strategy.inner.steps
    )
    return {"theta": theta - optimum - shrink @ (theta - optimum)}


def _meta_sgd(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """With D = diag(alpha), J = I - D A: grad_theta = (J^k)' A (phi_k - c).

    d phi_{t+1} / d alpha = J d phi_t / d alpha - diag(A (phi_t - c)).
    """
    fast, alpha = point["theta"], point["alpha"]
    identity = torch.eye(len(centre), dtype=centre.dtype)
    step = identity - alpha[:, None] * curvature
    by_theta, by_alpha = identity, torch.zeros_like(identity)
    for _ in range(strategy.inner.steps):
        slope = curvature @ (fast - centre)
        by_alpha = step @ by_alpha - torch.diag(slope)
        by_theta = step @ by_theta
        fast = fast - alpha * slope
    slope = curvature @ (fast - centre)
    return {"theta": by_theta.T @ slope, "alpha": by_alpha.T @ slope}


def _local(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """The adapted parameters c + B^k (theta - c); nothing is sent."""
    return {"theta": centre + _shrink(strategy, curvature) @ (point["theta"] - centre)}


CLOSED_FORMS: dict[str, ClosedForm] = {
    "local": _local,
    "fedavg": _averaging,
    "fedadam": _averaging,
    "fedprox": _fedprox,
    "maml": _maml,
    "fomaml": _fomaml,
    "reptile": _averaging,
    "meta_sgd": _meta_sgd,
}
"""Not here: protonet and fedrep, whose networks are more than linear."""


def _shrink(strategy: Any, curvature: Tensor) -> Tensor:
    identity = torch.eye(len(curvature), dtype=curvature.dtype)
    return torch.linalg.matrix_power(identity - strategy.inner.lr * curvature, strategy.inner.steps)
