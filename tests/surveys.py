"""A scenario written outside the package: groups, a metric of cells, figures, a second survey."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from fedmaml.core import figures, metrics, seeding
from fedmaml.core.figures import Figure
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations.scenario import Recipes, Scenario, Split

DAYS = ("mon", "tue", "wed", "thu", "fri")
RMSE = replace(metrics.RMSE, unit="days", scale=4.0)
DAILY = Metric(
    "daily_error", "days", "neither", math.nan,
    lambda prediction, y: dict(zip(DAYS, _daily(prediction, y), strict=True)), DAYS, 4.0,
)  # fmt: skip


def _daily(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the mean absolute error of the examples of each day; they follow each other."""
    return (prediction[:, 0] - y).abs().reshape(-1, len(DAYS)).mean(0)


@settings
class Surveys(Scenario):
    """Days in hospital, a line for each site; sites of the second survey have a bend."""

    about: ClassVar[str] = "days in hospital at sites of two surveys"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 5, "inner.lr": 0.1, "inner.steps": 3},
        "local": {"rounds": 0},
        "fedavg": {"outer.optimizer": "sgd", "outer.lr": 1.0, "adaptation.lr": 0.1,
                   "adaptation.steps": 3},
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 12
    test_clients: Annotated[int, Gt(0)] = 24

    def problem(self) -> Problem:
        return Problem(
            lambda: MLP((1, 8, 1), torch.tanh), half_squared_error,
            (RMSE, metrics.R2, metrics.EXAMPLES, DAILY),
        )  # fmt: skip

    def figures(self) -> tuple[Figure, ...]:
        return (figures.gap(RMSE, "sex"), figures.pooled_rmse(RMSE))

    def groups(self, client: int) -> Mapping[str, str]:
        return {"sex": "f" if client % 2 else "m", "region": f"region {client % 4}"}

    def family(self, client: int) -> str:
        return "second survey" if client >= self.clients()["test"].stop - 6 else ""

    def clients(self) -> dict[Split, range]:
        cut = self.train_clients
        return {
            "train": range(cut),
            "validation": range(cut, cut),
            "test": range(cut, cut + self.test_clients),
        }

    def statistics(self, client: int) -> Params:
        return {}

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape({client: self._task(client) for client in clients})

    def _task(self, client: int) -> Task:
        key = seeding.key(self.seed, "surveys")
        slope, *_ = seeding.normal(key, [client], 1)[0]
        x = seeding.uniform(seeding.key(self.seed, "x"), [client], 30)[0][:, None].float() * 2 - 1
        noise = seeding.normal(seeding.key(self.seed, "noise"), [client], 30)[0][:, None].float()
        bend = x.square() if self.family(client) else 0
        women = 0.3 if self.groups(client)["sex"] == "f" else 0.1
        y = (slope.float() * x + bend + women * noise)[:, 0]
        return Task(Batch(x[:10], y[:10]), Batch(x[10:], y[10:]))
