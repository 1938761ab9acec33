"""Quadratic tasks: everything has a closed form, so this is the oracle of every other result.

Client i's loss is f_i(theta) = 1/2 (theta - c_i)' A_i (theta - c_i), A_i symmetric and positive
definite, on support and query alike. It is written as a regression without noise: inputs
X_i = sqrt(n) A_i^(1/2), targets X_i c_i, loss of an example 1/2 (x'theta - y)^2.

With B_i = I - lr A_i and k inner steps, a client sends M_i (theta - c_i) where

    fedavg, reptile   M_i = I - B_i^k    (fedadam, too; fedavg at k = 1: lr A_i)
    fomaml            M_i = A_i B_i^k
    maml              M_i = B_i^k A_i B_i^k

so the fixed point of each is theta* = (sum M_i)^-1 sum M_i c_i. For fedavg at k = 1 it is the
minimum of the mean loss before adaptation; for maml that of the mean loss after k steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.kernels import KernelSpec
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import LinearModel
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split


def mean_half_squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the loss f_i."""
    return half_squared_error(prediction, y).mean()


@settings
class Quadratic(Scenario):
    """Quadratic tasks with known optima.

    Attributes:
        seed: Determines A_i and c_i.
        train_clients: Clients that train, all of them in every round.
        test_clients: Unseen clients.
        dimension: Entries of theta.
        smallest: Smallest eigenvalue of every A_i, > 0.
        largest: Largest eigenvalue of every A_i; inner.lr must stay below 1 / largest.
    """

    about: ClassVar[str] = "quadratic tasks with closed-form optima: the oracle of every strategy"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 500, "dtype": "float64", "inner.lr": 0.1, "inner.steps": 5,
              "outer.optimizer": "sgd", "outer.lr": 1.0},
        "fedavg": {"inner.steps": 1},
        "fedadam": {"inner.steps": 1, "outer.optimizer": "adam", "outer.lr": 0.05,
                    "outer.schedule": "cosine"},
        "meta_sgd": {"outer.lr": 0.1},
        "local": {"rounds": 0, "inner.steps": 100},
    }  # fmt: skip
    expected: ClassVar[Mapping[str, str]] = {
        "support-query-overlap": "a task is a function, whose loss is the same on support and "
        "query; the scenario checks algorithms against formulas and does not test generalisation",
    }

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 8
    test_clients: Annotated[int, Ge(0)] = 8
    dimension: Annotated[int, Gt(0)] = 6
    smallest: Annotated[float, Gt(0)] = 0.5
    largest: Annotated[float, Gt(0)] = 2.0

    def problem(self) -> Problem:
        metric = Metric("loss", "1", "lower", math.inf, mean_half_squared_error, least=0)
        return Problem(
            lambda: LinearModel(self.dimension, 1, bias=False), half_squared_error, (metric,)
        )

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, 0, self.test_clients)

    def max_examples(self, client: int) -> int:
        return 2 * self.dimension

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape({client: self._task(client) for client in clients})

    def references(self) -> tuple[Reference, ...]:
        """Return the optimum c_i of every client's own loss, which is 0 there."""
        about = "the optimum c_i of the client's own loss"
        return (references.least_squares(lambda x: x, "oracle", about, oracle=True),)

    def closed_form(self, spec: KernelSpec) -> Tensor | None:
        """Return theta*, float64 of shape ``(dimension,)``; see the module docstring."""
        lr, steps = spec.inner.lr, spec.inner.steps
        if replace(spec, own_model=None) != KernelSpec(spec.sends, GradientSteps(lr, steps)):
            return None
        if spec.sends not in ("difference", "first-order", "exact"):
            return None
        identity = torch.eye(self.dimension, dtype=torch.float64)
        total = torch.zeros_like(identity)
        weighted = torch.zeros(self.dimension, dtype=torch.float64)
        for client in self.clients()["train"]:
            curvature, centre = self.parameters_of(client)
            shrink = torch.linalg.matrix_power(identity - lr * curvature, steps)
            sent = {
                "difference": identity - shrink,
                "first-order": curvature @ shrink,
                "exact": shrink @ curvature @ shrink,
            }[spec.sends]
            total += sent
            weighted += sent @ centre
        return torch.linalg.solve(total, weighted)

    def parameters_of(self, client: int) -> tuple[Tensor, Tensor]:
        """Return A_i ``(dimension, dimension)`` and c_i ``(dimension,)``, float64."""
        basis, eigenvalues, centre = self._draws(client)
        return basis @ torch.diag(eigenvalues) @ basis.T, centre

    def _task(self, client: int) -> Task:
        basis, eigenvalues, centre = self._draws(client)
        x = self.dimension**0.5 * basis @ torch.diag(eigenvalues.sqrt()) @ basis.T
        batch = Batch(x, x @ centre)
        return Task(batch, batch)

    def _draws(self, client: int) -> tuple[Tensor, Tensor, Tensor]:
        d = self.dimension
        gaussian = seeding.normal(seeding.key(self.seed, "quadratic"), [client], d + 1, d)[0]
        basis, _ = torch.linalg.qr(gaussian[:d])
        return (
            basis,
            torch.linspace(self.smallest, self.largest, d, dtype=torch.float64),
            gaussian[d],
        )
