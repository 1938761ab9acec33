"""A scenario of one's own with references: clients continue a series, each in its own way."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import squared_error
from fedmaml.core.metrics import MEAN_SQUARED_ERROR
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split


class Line(nn.Module):
    """A linear layer as head, which takes windows."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


@settings
class Windows(Scenario):
    """y = a x_last + noise, where a ~ N(.8, .2) is the client's own; 8 train, 4 validate, 12 test.

    Attributes:
        seed: Determines everything.
        noise: Standard deviation.
    """

    about: ClassVar[str] = "the next value of a series"
    recipes: ClassVar[Recipes] = {"*": {"rounds": 3}, "local": {"rounds": 0}}

    seed: int = 0
    noise: float = 0.3

    def problem(self) -> Problem:
        return Problem(Line, squared_error, (MEAN_SQUARED_ERROR,))

    def clients(self) -> dict[Split, range]:
        return {"train": range(8), "validation": range(8, 12), "test": range(12, 24)}

    def statistics(self, client: int) -> Params:
        return {}

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        slope = 0.8 + 0.2 * seeding.normal(seeding.key(self.seed, "slope"), clients, 1, 1)
        drawn = round if split == "train" else 0
        values = seeding.normal(seeding.key(self.seed, "window", split, drawn), clients, 14, 4)
        x = values[..., :3]
        y = slope * x[..., -1:] + self.noise * values[..., 3:]
        support, query = Batch(x[:, :6], y[:, :6]), Batch(x[:, 6:], y[:, 6:])
        return [TaskGroup(tuple(clients), Task(support, query))]

    def references(self) -> tuple[Reference, ...]:
        return (
            references.persistence(),
            references.ridge_to_the_mean(weights=(0.01, 1.0, 100.0)),
            references.random_forest(references.NUMBERS, trees=5),
        )
