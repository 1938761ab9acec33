"""Arm: a controller that adapts to an unknown payload, through a simulation that is differentiable.

A client is a one-link arm with a payload m ~ U(0, 3) kg and friction b ~ U(.2, 1) N m s. In an
episode of 2 s it moves to a target angle q* ~ U(-1.2, 1.2) that the controller knows; m and b it
does not know. It adapts on three episodes. The loss is mean_t log(1 + 10 (q - q*)^2) + 1e-4 u^2,
differentiated through the motion, so there is no estimator, and second derivatives are exact.

``controller = "linear"``: u = [20, 5, 8, 5] theta . [q* - q, -w, cos q, 1], from (1, 1, 0, 0);
"network": 20 tanh of 5-32-32-1. Some controllers are unstable, where gradients are huge, so the
recipes bound their steps (``inner.bound``). The headline is the mean |q - q*| of the last ten steps
in rad. Every gradient step plays the support again, so all are compared after one: ten of them from
the untrained controller cost ten times the episodes, and reach less than a learned start does in
three.

An unknown load is what makes adaptation matter: a pole that is held upright by feedback alone is
robust to its parameters. Fazel et al. Global Convergence of Policy Gradient Methods for the Linear
Quadratic Regulator. ICML 2018. arXiv:1801.05039. Made-up arms.
"""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.core.trees import Tree
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.environments import Environment, rollout
from fedmaml.simulations.environments.acting import Prediction, environment_steps
from fedmaml.simulations.environments.one_link import OneLinkArm, cost
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_HEAVIEST, _MIN_FRICTION, _MAX_FRICTION, _FARTHEST = 3.0, 0.2, 1.0, 1.2
_SUPPORT, _LAST = 3, 10
_GAINS = torch.tensor([20.0, 5.0, 8.0, 5.0])
_META = {
    "inner.lr": 2.0,
    "inner.steps": 1,
    "inner.bound": 1.0,
    "outer.lr": 0.1,
    "outer.schedule": "linear",
}
_AVERAGING = {"inner.lr": 1.0, "inner.steps": 1, "inner.bound": 1.0, "outer.optimizer": "sgd",
              "outer.lr": 1.0, "adaptation.lr": 1.0, "adaptation.steps": 1,
              "adaptation.bound": 1.0}  # fmt: skip


class Linear(nn.Module):
    """Four gains, on what a controller of an arm needs."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.tensor([1.0, 1.0, 0.0, 0.0]))

    def forward(self, seen: Tensor) -> Tensor:
        """Map (q, w, q*) to a torque in Nm."""
        q, w, target = seen.unbind(-1)
        inputs = torch.stack([target - q, -w, torch.cos(q), torch.ones_like(q)], -1)
        return (inputs @ (_GAINS.to(seen) * self.gains))[:, None]


class Network(nn.Module):
    """A network of two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = MLP((5, 32, 32, 1), torch.tanh)

    def forward(self, seen: Tensor) -> Tensor:
        """Map (q, w, q*) to a torque in Nm."""
        q, w, target = seen.unbind(-1)
        inputs = torch.stack([target - q, 0.3 * w, torch.cos(q), torch.sin(q), target], -1)
        return 20 * torch.tanh(self.layers(inputs))


class Controlled(nn.Module):
    """A controller at work; the gradient passes through the motion."""

    def __init__(self, environment: Environment, controller: nn.Module) -> None:
        super().__init__()
        self.environment = environment
        self.controller = controller

    def forward(self, x: Tree) -> Prediction:
        """Return angles and torques, ``(episodes, steps)``."""
        found = rollout(
            self.environment, lambda seen, _: self.controller(seen), x, x["noise"], x["noise"]
        )
        return {
            "angle": found.states[..., 0],
            "torque": found.actions[..., 0],
        }


@settings
class Arm(Scenario):
    """Arms with unknown payloads.

    Attributes:
        seed: Determines arms, targets and noise.
        train_clients: Clients that may be drawn for training.
        validation_clients: Clients for evaluation during training.
        test_clients: Clients for the final evaluation.
        controller: "linear" or "network".
        queries: Episodes of the query.
    """

    about: ClassVar[str] = "an arm that adapts to its payload, through a differentiable simulation"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 200, "clients": 20, "evaluation.steps": [3, 10]},
        "local": {"rounds": 0, "inner.lr": 1.0, "inner.steps": 1, "inner.bound": 1.0},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.1},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META | {"inner.lr": 1.0, "outer.lr": 0.03},
        "meta_sgd": _META | {"inner.lr": 1.0, "outer.lr": 0.05},
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 10_000
    validation_clients: Annotated[int, Ge(0)] = 50
    test_clients: Annotated[int, Gt(0)] = 50
    controller: Literal["linear", "network"] = "linear"
    queries: Annotated[int, Gt(0)] = 10

    def problem(self) -> Problem:
        environment, make = OneLinkArm(), Linear if self.controller == "linear" else Network
        return Problem(
            lambda: Controlled(environment, make()),
            costs,
            (
                Metric("error", "rad", "lower", math.inf, _last_error, least=0),
                Metric("cost", "1", "lower", math.inf, _mean_cost, least=0),
            ),
            head="",
            counters=(environment_steps(environment.horizon),),
        )

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return _SUPPORT + self.queries

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        draw = seeding.key(self.seed, "arm", split, round if split == "train" else 0)
        mass, friction = self.arms(clients)
        sides = []
        for side, count in (("support", _SUPPORT), ("query", self.queries)):
            key = seeding.key(draw, side)
            target = _FARTHEST * (2 * seeding.uniform(seeding.key(key, "q"), clients, count) - 1)
            x = {
                "mass": mass[:, None].expand_as(target),
                "friction": friction[:, None].expand_as(target),
                "target": target,
                "noise": seeding.normal(key, clients, count, OneLinkArm().horizon, 1),
            }
            sides.append(Batch(x, target))
        return [TaskGroup(tuple(clients), Task(*sides))]

    def arms(self, clients: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return masses in kg and frictions in N m s, each ``(clients,)``."""
        u = seeding.uniform(seeding.key(self.seed, "arm"), clients, 2)
        friction = _MIN_FRICTION + (_MAX_FRICTION - _MIN_FRICTION) * u[:, 1]
        return _HEAVIEST * u[:, 0], friction


def costs(prediction: Prediction, y: Tensor) -> Tensor:
    """Return the mean cost of each episode, ``(episodes,)``; y are the target angles."""
    return cost(prediction["angle"] - y[:, None], prediction["torque"]).mean(-1)


def _last_error(prediction: Prediction, y: Tensor) -> Tensor:
    return (prediction["angle"][:, -_LAST:] - y[:, None]).abs().mean()


def _mean_cost(prediction: Prediction, y: Tensor) -> Tensor:
    return costs(prediction, y).mean()
