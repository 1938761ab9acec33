"""The outer optimiser: one step on the meta-parameters, with its state as data.

All entries are one vector, on which a step is a few operations. The arithmetic is that of
``torch.optim`` (SGD, Adam) and ``pytorch_optimizer`` (Yogi), to the bit: tests compare. Their
classes are not used, because the first one made imports the compiler of PyTorch, which takes a
second. State is a flat dictionary of tensors, so it is saved and restored like any parameters.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedmaml.core.errors import ConfigurationError
from fedmaml.core.params import MetaParams, flatten, layout_of, unflatten
from fedmaml.core.settings import settings

OptimizerState = dict[str, Tensor]

_BETA1, _BETA2 = 0.9, 0.999
_EPSILON_ADAM, _EPSILON_YOGI, _START_OF_YOGI = 1e-8, 1e-3, 1e-6


@settings
class OuterOptimizer:
    """Steps against a pseudo-gradient; the updates of every strategy are pseudo-gradients.

    Attributes:
        optimizer: "sgd", "adam" or "yogi".
        lr: Step size, > 0. With "sgd" and lr 1, averaged local updates theta - phi are FedAvg.
        momentum: Of "sgd", in [0, 1).
        schedule: How lr falls over ``horizon`` rounds: "constant", "linear" or "cosine", to 0.
        horizon: Rounds after which lr reaches 0; needed by "linear" and "cosine" (a run sets it to
            its number of rounds).
    """

    optimizer: Literal["sgd", "adam", "yogi"] = "adam"
    lr: Annotated[float, Gt(0)] = 0.001
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    horizon: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        """Refuse settings that would be ignored."""
        if self.momentum and self.optimizer != "sgd":
            raise ConfigurationError(
                f"outer.momentum = {self.momentum}: only optimizer 'sgd' takes a momentum, not "
                f"{self.optimizer!r}"
            )
        if self.schedule != "constant" and not self.horizon:
            raise ConfigurationError(
                f"outer.schedule = {self.schedule!r} needs outer.horizon, the round at which the "
                "rate reaches 0"
            )

    def rate(self, finished_rounds: int) -> float:
        """Return lr for the round that follows ``finished_rounds`` rounds."""
        if self.schedule == "constant":
            return self.lr
        progress = min(finished_rounds / self.horizon, 1.0)
        if self.schedule == "linear":
            return self.lr * (1 - progress)
        return self.lr * (1 + math.cos(math.pi * progress)) / 2

    def step(
        self, meta: MetaParams, gradient: MetaParams, state: OptimizerState, finished_rounds: int
    ) -> tuple[MetaParams, OptimizerState]:
        """Take one step.

        Args:
            meta: The point to step from; not changed.
            gradient: Shaped like ``meta``.
            state: From the step before; empty at first; not changed.
            finished_rounds: Rounds before this one; for the schedule.

        Returns:
            New meta-parameters and new state.
        """
        point = _flat(meta, meta)
        slope = _flat(gradient, meta).to(point.dtype)
        kept = {name: value.clone() for name, value in state.items()}
        step = {"sgd": self._sgd, "adam": _adam, "yogi": _yogi}[self.optimizer]
        step(point, slope, kept, self.rate(finished_rounds))
        sizes = [sum(value.numel() for value in params.values()) for params in meta.values()]
        parts = torch.split(point, sizes)
        return {
            group: unflatten(part, layout_of(params))
            for (group, params), part in zip(meta.items(), parts, strict=True)
        }, kept

    def _sgd(self, point: Tensor, gradient: Tensor, state: OptimizerState, lr: float) -> None:
        """Step with momentum: b <- momentum * b + g, point <- point - lr * b."""
        if self.momentum and "momentum_buffer" not in state:
            state["momentum_buffer"] = gradient.clone()
        elif self.momentum:
            state["momentum_buffer"].mul_(self.momentum).add_(gradient)
        point.add_(state.get("momentum_buffer", gradient), alpha=-lr)


def _flat(values: MetaParams, order: MetaParams) -> Tensor:
    """Return a new vector of all entries, in the order of another tree of the same names."""
    return torch.cat([flatten(values[group]) for group in order])


def _adam(point: Tensor, gradient: Tensor, state: OptimizerState, lr: float) -> None:
    """Step as Kingma and Ba do: m <- mean of g, v <- mean of g^2, point <- point - lr * m / v^.5.

    arXiv:1412.6980, Algorithm 1; both means are corrected for their start at 0.
    """
    if not state:
        state |= {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(point),
            "exp_avg_sq": torch.zeros_like(point),
        }
    state["exp_avg"].lerp_(gradient, 1 - _BETA1)
    state["exp_avg_sq"].mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
    _adaptive_step(point, state, lr, _EPSILON_ADAM)


def _yogi(point: Tensor, gradient: Tensor, state: OptimizerState, lr: float) -> None:
    """Step as Zaheer et al. do: v changes by at most g^2, so it never grows fast.

    v <- v - (1 - beta2) * sign(v - g^2) * g^2. NeurIPS 2018, Algorithm 2; corrected as Adam's.
    """
    if not state:
        start = torch.full_like(point, _START_OF_YOGI)
        state |= {"exp_avg": start, "exp_avg_sq": start.clone(), "step": torch.tensor(0.0)}
    squares = gradient * gradient
    second = state["exp_avg_sq"]
    state["exp_avg"].lerp_(gradient, 1 - _BETA1)
    second.addcmul_((second - squares).sign_(), squares, value=-(1 - _BETA2))
    _adaptive_step(point, state, lr, _EPSILON_YOGI)


def _adaptive_step(point: Tensor, state: OptimizerState, lr: float, epsilon: float) -> None:
    """Step along the mean, by the root of the second mean, and count the step."""
    state["step"] += 1
    count = state["step"].item()
    denominator = state["exp_avg_sq"].sqrt().div_((1 - _BETA2**count) ** 0.5).add_(epsilon)
    point.addcdiv_(state["exp_avg"], denominator, value=-lr / (1 - _BETA1**count))
