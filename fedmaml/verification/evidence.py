"""Moments of an EM step as what they are: the gradient of the evidence, scaled.

For y ~ N(Z m, Z S Z' + s I) and the posterior N(mu, V) of w, with log p the log evidence of y:

    m - mu = - S grad_m log p
    S - V - (mu - m)(mu - m)' = - 2 S (grad_S log p) S
    s - (||y - Z mu||^2 + tr Z V Z') / n = - 2 s^2 / n grad_s log p
"""

from typing import Any

import torch
from torch.distributions import MultivariateNormal

from fedmaml.core.params import MetaParams
from fedmaml.core.tasks import Task
from fedmaml.strategies.base import Initialised
from fedmaml.verification.differences import finite_differences
from fedmaml.verification.plain import everything, network_at


def _log_evidence(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> float:
    del strategy
    local, (spread, noise) = everything(task), meta["prior"].values()
    embedded = network_at(start, meta["theta"])(local.x).detach()
    mean = torch.cat([meta["theta"]["head.weight"][0], meta["theta"]["head.bias"]])
    z = torch.cat([embedded, torch.ones_like(embedded[:, :1])], 1)
    covariance = z @ (spread + spread.T) @ z.T / 2 + noise * torch.eye(len(z), dtype=z.dtype)
    evidence = MultivariateNormal(z @ mean, covariance)
    return float(evidence.log_prob(local.y[:, 0]))  # type: ignore[no-untyped-call]


def expectation_step(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return the update by finite differences of the log evidence."""
    found = finite_differences(strategy, start, meta, task, (_log_evidence, ("theta", "prior")))
    (spread, noise), count = meta["prior"].values(), len(everything(task).y)
    by_spread, by_noise = found["prior"].values()
    by_head = torch.cat([found["theta"]["head.weight"][0], found["theta"]["head.bias"]])
    moved = -spread @ by_head
    head = {"head.weight": moved[None, :-1], "head.bias": moved[-1:]}
    body = {name: -value / count for name, value in found["theta"].items() if name not in head}
    changes = (-2 * spread @ by_spread @ spread, -2 * noise**2 / count * by_noise)
    return {"theta": body | head, "prior": dict(zip(meta["prior"], changes, strict=True))}
