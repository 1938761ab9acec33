"""What a client sends on f(theta) = 1/2 (theta - c)' A (theta - c), by matrix algebra.

B = I - lr A, k steps, support = query = f unless said otherwise. Training on support and query
together is training on f as well.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedmaml.verification.implicit import krylov_solution

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


def _unadapted(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """A (theta - c)."""
    del strategy
    return {"theta": curvature @ (point["theta"] - centre)}


def _truncated(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """B^T A B^k (theta - c), T the number of last steps."""
    step = torch.eye(len(centre), dtype=centre.dtype) - strategy.inner.lr * curvature
    through = torch.linalg.matrix_power(step, min(strategy.last, strategy.inner.steps))
    distance = point["theta"] - centre
    return {"theta": through @ curvature @ _shrink(strategy, curvature) @ distance}


def _imaml(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """(I + A / lam)^-1 A (phi_k - c), as far as the conjugate steps go."""
    fast = _near(strategy, point["theta"], curvature, centre)
    matrix = torch.eye(len(centre), dtype=centre.dtype) + curvature / strategy.lam
    return {"theta": krylov_solution(matrix, curvature @ (fast - centre), strategy.conjugate)}


def _pfedme(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """theta - w_R, w <- w - local.lr lam (w - phi(w))."""
    w = point["theta"]
    for _ in range(strategy.local.steps):
        phi = _near(strategy, w, curvature, centre)
        w = w - strategy.local.lr * strategy.lam * (w - phi)
    return {"theta": point["theta"] - w}


def _per_fedavg_fo(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """(I - (I - b A B^k)^tau) (theta - c)."""
    return _meta_steps(strategy, point, centre, curvature @ _shrink(strategy, curvature))


def _per_fedavg_hf(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """(I - (I - b B^k A B^k)^tau) (theta - c); differences are exact on a quadratic."""
    shrink = _shrink(strategy, curvature)
    return _meta_steps(strategy, point, centre, shrink @ curvature @ shrink)


def _meta_steps(strategy: Any, point: Points, centre: Tensor, slope: Tensor) -> Points:
    identity = torch.eye(len(centre), dtype=centre.dtype)
    step = identity - strategy.local.lr * slope
    end = torch.linalg.matrix_power(step, strategy.local.steps)
    return {"theta": (identity - end) @ (point["theta"] - centre)}


def _q_fedavg(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """F^q L (I - B^k) (theta - c), F = f(theta), and h."""
    distance, bound = point["theta"] - centre, 1 / strategy.inner.lr
    loss = distance @ curvature @ distance / 2
    moved = bound * _averaging(strategy, point, curvature, centre)["theta"]
    h = strategy.q * loss ** (strategy.q - 1) * moved @ moved + bound * loss**strategy.q
    return {"theta": loss**strategy.q * moved, "h": h[None]}


def _scaffold(strategy: Any, point: Points, curvature: Tensor, centre: Tensor) -> Points:
    """(I - B^k) (theta - o), o = c - A^-1 control, for a client whose own variate is 0."""
    theta, control = point["theta"], point["control"]
    distance = theta - centre + torch.linalg.solve(curvature, control)
    moved = distance - _shrink(strategy, curvature) @ distance
    length = strategy.inner.lr * strategy.inner.steps
    return {"theta": moved, "control": control - moved / length}


CLOSED_FORMS: dict[str, ClosedForm] = {
    "local": _local,
    "fedavg": _averaging,
    "fedadam": _averaging,
    "fedprox": _fedprox,
    "maml": _maml,
    "fomaml": _fomaml,
    "reptile": _averaging,
    "meta_sgd": _meta_sgd,
    "meta_gradient_descent": _unadapted,
    "truncated": _truncated,
    "imaml": _imaml,
    "per_fedavg_fo": _per_fedavg_fo,
    "per_fedavg_hf": _per_fedavg_hf,
    "pfedme": _pfedme,
    "ditto": _averaging,
    "apfl": _averaging,
    "q_fedavg": _q_fedavg,
    "scaffold": _scaffold,
}
"""Not here: those whose networks are more than linear, or that only differences are needed for."""


def _near(strategy: Any, start: Tensor, curvature: Tensor, centre: Tensor) -> Tensor:
    """Return the end of k steps on f(phi) + lam/2 ||phi - start||^2: C^k on the way to its minimum.

    C = I - lr (A + lam I); the minimum is (A + lam I)^-1 (A c + lam start).
    """
    identity = torch.eye(len(centre), dtype=centre.dtype)
    stiffness = curvature + strategy.lam * identity
    optimum = torch.linalg.solve(stiffness, curvature @ centre + strategy.lam * start)
    shrink = torch.linalg.matrix_power(
        identity - strategy.inner.lr * stiffness, strategy.inner.steps
    )
    return optimum + shrink @ (start - optimum)


def _shrink(strategy: Any, curvature: Tensor) -> Tensor:
    identity = torch.eye(len(curvature), dtype=curvature.dtype)
    return torch.linalg.matrix_power(identity - strategy.inner.lr * curvature, strategy.inner.steps)
