"""The outer optimiser: one step on the meta-parameters, with its state as data.

The arithmetic is ``torch.optim``'s (SGD, Adam) and ``pytorch_optimizer``'s (Yogi, Zaheer et al.
2018). State is a flat dictionary of tensors, so it is saved and restored like any parameters.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt

from fedmaml.core.errors import ConfigurationError
from fedmaml.core.params import MetaParams, flatten, layout_of, unflatten
from fedmaml.core.settings import settings

OptimizerState = dict[str, torch.Tensor]


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
        point = torch.nn.Parameter(torch.cat([flatten(group) for group in meta.values()]))
        optimizer = self._make(point, self.rate(finished_rounds))
        if state:
            optimizer.state[point] = {name: value.clone() for name, value in state.items()}
        settings_of_group = optimizer.param_groups[0]
        if self.optimizer == "yogi":  # it counts its steps there, and not in its state
            settings_of_group["step"] = int(state.get("step", 0))
        point.grad = torch.cat([flatten(gradient[group]) for group in meta]).to(point.dtype)
        optimizer.step()
        kept = {
            name: torch.as_tensor(value)
            for name, value in optimizer.state[point].items()
            if value is not None
        }
        if self.optimizer == "yogi":
            kept["step"] = torch.tensor(float(settings_of_group["step"]))
        layouts = {group: layout_of(params) for group, params in meta.items()}
        sizes = [sum(value.numel() for value in params.values()) for params in meta.values()]
        parts = torch.split(point.detach(), sizes)
        return {
            group: unflatten(part, layout)
            for (group, layout), part in zip(layouts.items(), parts, strict=True)
        }, kept

    def _make(self, point: torch.nn.Parameter, lr: float) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD([point], lr, momentum=self.momentum, foreach=False)
        if self.optimizer == "adam":
            return torch.optim.Adam([point], lr, foreach=False)
        from pytorch_optimizer import Yogi  # imports a second of other optimisers

        return Yogi([point], lr)
