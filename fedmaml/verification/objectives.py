"""Objectives that are not the query loss after adaptation, in plain loops (`plain`)."""

from typing import Any

import torch

from fedmaml.core.params import MetaParams, Params, subtract
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies.base import Initialised
from fedmaml.verification.differences import Objective, finite_differences
from fedmaml.verification.plain import everything, loss_at, network_at, parts_of, slopes_at


def _multi_step(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> float:
    """Return sum_t v_t L_query(phi_t), where the last v belongs to the last step."""
    point, rates, losses = meta["theta"], meta["alpha"], []
    for step, part in enumerate(parts_of(task.support, strategy.inner)):
        along = slopes_at(start, point, part)
        point = {
            name: value - rates[name][min(step, len(rates[name]) - 1)] * along[name]
            for name, value in point.items()
        }
        losses.append(loss_at(start, network_at(start, point), task.query, penalty=False))
    v = meta["v"]["v"].tolist()
    pairs = zip(reversed(v), reversed(losses), strict=False)
    return float(torch.stack([weight * loss.detach() for weight, loss in pairs]).sum())


def truncated(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return differences of the query loss, where the first steps only add a constant to theta."""
    parts = list(parts_of(task.support, strategy.inner))
    first, last = parts[: max(len(parts) - strategy.last, 0)], parts[-strategy.last :]

    def stepped(point: Params, batches: list[Batch]) -> Params:
        for part in batches:
            along = slopes_at(start, point, part)
            point = {n: value - strategy.inner.lr * along[n] for n, value in point.items()}
        return point

    constant = subtract(stepped(meta["theta"], first), meta["theta"])

    def objective(_: Any, start: Initialised, point: MetaParams, task: Task) -> float:
        moved = {name: value + constant[name] for name, value in point["theta"].items()}
        network = network_at(start, stepped(moved, last if strategy.last else []))
        return float(loss_at(start, network, task.query, penalty=False).detach())

    return finite_differences(strategy, start, meta, task, (objective, ("theta",)))


def _over_all_trials(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> float:
    """Return the training loss on support and query together."""
    del strategy
    network = network_at(start, meta["theta"])
    return float(loss_at(start, network, everything(task)).detach())


def _by_latent(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> float:
    """Return the query loss at b + U mean and the divergence; factors one after another."""
    theta, e = meta["theta"], meta["encoder"]
    classes = torch.eye(3, dtype=torch.float64)[task.support.y]
    precision, moment = torch.ones(strategy.latent), torch.zeros(strategy.latent)
    for row in torch.cat([network_at(start, theta)(task.support.x), classes], 1):
        for layer in "12":
            row = (e[f"{layer}.weight"] @ row + e[f"{layer}.bias"]).clamp(min=0)
        mean, spread = (e["3.weight"] @ row + e["3.bias"]).split(strategy.latent)
        variance = (1 + spread.exp()).log() + 1e-6
        precision, moment = precision + 1 / variance, moment + mean / variance
    mean, variance = moment / precision, 1 / precision
    ((name, inputs),) = meta["context"].items()
    network = network_at(start, theta | {name: theta[name] + inputs @ mean})
    outputs = network(task.query.x) @ theta["head.weight"].T + theta["head.bias"]
    loss = start.learner.problem.loss(outputs, task.query.y).mean()
    divergence = 0.5 * (variance + mean**2 - 1 - variance.log()).sum()
    return float((loss + strategy.kl * divergence).detach())


OBJECTIVES: dict[str, tuple[Objective, tuple[str, ...]]] = {
    "lslr": (_multi_step, ("theta", "alpha")),
    "rl2": (_over_all_trials, ("theta",)),
    "pearl": (_by_latent, ("theta", "context", "encoder")),
}
"""Strategy -> its objective, and the groups in which it sends the gradient."""
