"""Defining formulas of strategies that train a model for each client, in plain loops."""

from collections.abc import Callable
from typing import Any

import torch

from fedmaml.core.params import MetaParams, Params, subtract
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies.base import Initialised
from fedmaml.verification.plain import (
    descend,
    everything,
    loss_at,
    network_at,
    parts_of,
    slopes_at,
    values_of,
)

Slope = Callable[[Params, Batch], Params]


def _followed(slope: Slope, start: Params, batch: Batch, steps: Any) -> Params:
    """Return the end of plain steps against a slope."""
    point = start
    for part in parts_of(batch, steps):
        along = slope(point, part)
        point = {name: value - steps.lr * along[name] for name, value in point.items()}
    return point


def _per_fedavg_fo(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return theta - w after steps along the query gradient at the adapted point."""

    def slope(w: Params, query: Batch) -> Params:
        adapted = descend(network_at(start, w), start, task.support, strategy.inner)
        return slopes_at(start, values_of(adapted), query, penalty=False)

    w = _followed(slope, meta["theta"], task.query, strategy.local)
    return {"theta": subtract(meta["theta"], w)}


def _per_fedavg_hf(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return theta - w after steps along (I - a H_0) ... (I - a H_k-1) v, by differences."""
    inner = strategy.inner

    def slope(w: Params, query: Batch) -> Params:
        points, parts = [w], list(parts_of(task.support, inner))
        for part in parts:
            along = slopes_at(start, points[-1], part)
            points.append({n: value - inner.lr * along[n] for n, value in points[-1].items()})
        v = slopes_at(start, points.pop(), query, penalty=False)
        while points:
            point, part = points.pop(), parts.pop()
            d = strategy.delta / float(sum((value**2).sum() for value in v.values())) ** 0.5
            ahead = slopes_at(start, {n: value + d * v[n] for n, value in point.items()}, part)
            behind = slopes_at(start, {n: value - d * v[n] for n, value in point.items()}, part)
            v = {n: g - inner.lr * (ahead[n] - behind[n]) / (2 * d) for n, g in v.items()}
        return v

    w = _followed(slope, meta["theta"], task.query, strategy.local)
    return {"theta": subtract(meta["theta"], w)}


def _pfedme(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return theta - w after steps along lam (w - phi), phi by proximal descent from w."""

    def slope(w: Params, part: Batch) -> Params:
        phi = descend(network_at(start, w), start, part, strategy.inner, mu=strategy.lam, anchor=w)
        return {name: strategy.lam * (w[name] - p) for name, p in values_of(phi).items()}

    w = _followed(slope, meta["theta"], everything(task), strategy.local)
    return {"theta": subtract(meta["theta"], w)}


def _local_model(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return theta - w after descent on support and query; what is personal leaves no trace."""
    network = network_at(start, meta["theta"])
    w = values_of(descend(network, start, everything(task), strategy.inner))
    return {"theta": subtract(meta["theta"], w)}


def _fedbabu(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return body - body' after body steps under the first head."""
    network = network_at(start, meta["theta"] | start.memory)
    body = [(n, p) for n, p in network.named_parameters() if n in meta["theta"]]
    descend(network, start, everything(task), strategy.inner, body)
    return {"theta": {n: meta["theta"][n] - p.detach() for n, p in body}}


def _q_fedavg(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return F^q L (theta - phi), and h."""
    (moved,), batch = _local_model(strategy, start, meta, task).values(), everything(task)
    loss = float(loss_at(start, network_at(start, meta["theta"]), batch).detach())
    bound, q = 1 / strategy.inner.lr, strategy.q
    far = bound**2 * sum((value**2).sum() for value in moved.values())
    h = q * loss ** (q - 1) * far + bound * loss**q
    return {
        "theta": {name: loss**q * bound * value for name, value in moved.items()},
        "h": {"h": torch.as_tensor(h)},
    }


def _scaffold(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return theta - phi after corrected steps, and c_i - c_i'."""
    theta, control, local = meta["theta"], meta["control"], everything(task)

    def slope(phi: Params, part: Batch) -> Params:
        plain = slopes_at(start, phi, part)
        return {name: plain[name] - start.memory[f"c.{name}"] + control[name] for name in plain}

    phi = _followed(slope, theta, local, strategy.inner)
    length = strategy.inner.lr * len(list(parts_of(local, strategy.inner)))
    return {
        "theta": subtract(theta, phi),
        "control": {n: control[n] - (theta[n] - phi[n]) / length for n in theta},
    }


Formula = Callable[[Any, Initialised, MetaParams, Task], MetaParams]

PERSONALISED: dict[str, tuple[str, Formula]] = {
    "per_fedavg_fo": ("defining formula: theta - w along query gradients", _per_fedavg_fo),
    "per_fedavg_hf": ("defining formula: theta - w, Hessian by differences", _per_fedavg_hf),
    "pfedme": ("defining formula: theta - w along lam (w - phi)", _pfedme),
    "ditto": ("defining formula: theta - w", _local_model),
    "apfl": ("defining formula: theta - w", _local_model),
    "fedbabu": ("defining formula: body - body' under the first head", _fedbabu),
    "q_fedavg": ("defining formula: F^q L (theta - phi), and h", _q_fedavg),
    "scaffold": ("defining formula: theta - phi, and c_i - c_i'", _scaffold),
}
