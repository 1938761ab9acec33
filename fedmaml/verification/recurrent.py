"""Meta-LSTM a second time: its gates number by number, the gradients of its steps constants."""

import math
from typing import Any

import torch
from torch import Tensor

from fedmaml.core.params import MetaParams, Params
from fedmaml.core.tasks import Task
from fedmaml.strategies.base import Initialised
from fedmaml.verification.differences import finite_differences
from fedmaml.verification.plain import loss_at, network_at, parts_of, slopes_at

Seen = list[tuple[Params, float]]
"""Gradient and loss of each step."""


def meta_lstm(strategy: Any, start: Initialised, meta: MetaParams, task: Task) -> MetaParams:
    """Return differences of the query loss, gradients and losses of the steps held constant."""
    parts = list(parts_of(task.support, strategy.inner))
    seen: Seen = []
    for step, part in enumerate(parts):
        point = _after(meta, seen[:step])
        loss = float(loss_at(start, network_at(start, point), part).detach())
        seen.append((slopes_at(start, point, part), loss))

    def objective(_: Any, start: Initialised, point: MetaParams, task: Task) -> float:
        network = network_at(start, _after(point, seen))
        return float(loss_at(start, network, task.query, penalty=False).detach())

    return finite_differences(strategy, start, meta, task, (objective, tuple(meta)))


def _after(meta: MetaParams, seen: Seen) -> Params:
    """Return the parameters after the steps whose gradients and losses were seen."""
    return {
        name: _column(meta["optimizer"], value.flatten(),
                      [(slopes[name].flatten(), loss) for slopes, loss in seen]).view_as(value)
        for name, value in meta["theta"].items()
    }  # fmt: skip


def _column(learned: Params, theta: Tensor, seen: list[tuple[Tensor, float]]) -> Tensor:
    hidden = len(learned["lstm.bias"]) // 4
    h = cell = torch.zeros(hidden, len(theta), dtype=theta.dtype)
    keep = rate = torch.zeros_like(theta)
    for slope, loss in seen:
        losses = torch.full_like(slope, loss)
        inputs = torch.stack([*_two(slope), *_two(losses), *h])
        i, f, o, g = (learned["lstm.weight"] @ inputs + learned["lstm.bias"][:, None]).chunk(4)
        cell = cell / (1 + (-f).exp()) + g.tanh() / (1 + (-i).exp())
        h = cell.tanh() / (1 + (-o).exp())
        keep, rate = (
            1 / (1 + (-(learned[f"{name}.weight"][0] @ torch.stack([*h, theta, own])
                        + learned[f"{name}.bias"][0])).exp())
            for name, own in (("keep", keep), ("rate", rate))
        )  # fmt: skip
        theta = keep * theta - rate * slope
    return theta


def _two(values: Tensor) -> tuple[Tensor, Tensor]:
    pairs = [
        (math.log(abs(v)) / 10, math.copysign(1.0, v))
        if abs(v) >= math.exp(-10)
        else (-1.0, math.exp(10) * v)
        for v in values.tolist()
    ]
    first, second = zip(*pairs, strict=True)
    return torch.tensor(first, dtype=values.dtype), torch.tensor(second, dtype=values.dtype)
