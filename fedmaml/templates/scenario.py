"""My scenario: every client has a wave of its own phase and amplitude.

What clients share, what differs between them, and where the data come from belongs here.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt

from fedmaml.core import metrics, seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split


@settings
class MyScenario(Scenario):
    """Waves y = amplitude * sin(x + phase).

    Attributes:
        seed: Determines everything that is drawn.
        shots: Examples on which a client adapts; as many again evaluate it.
    """

    about: ClassVar[str] = "waves of different phase and amplitude"
    recipes: ClassVar[Recipes] = {  # settings that suit it, by strategy, family or "*"
        "*": {"rounds": 200},
        "local": {"rounds": 0, "inner.steps": 100},
        "family:initialisation": {"inner.lr": 0.02, "inner.steps": 5},
    }

    seed: int = 0
    shots: Annotated[int, Gt(0)] = 10

    def problem(self) -> Problem:
        """Return network, loss and metrics; the first metric is the headline."""
        return Problem(
            lambda: MLP((1, 32, 32, 1), torch.tanh), half_squared_error, (metrics.RMSE, metrics.R2)
        )

    def clients(self) -> dict[Split, range]:
        """Return the numbers of the clients; none may be in two splits."""
        return {"train": range(100), "validation": range(100, 120), "test": range(120, 160)}

    def statistics(self, client: int) -> Params:
        """Return sums that a client sends once, e.g. to standardise; {} for none."""
        del client
        return {}

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        """Return the clients' tasks, ``(clients, examples, features)``.

        Draw from seed, round and client, and from nothing else: then a run can be repeated, and
        every process draws the same.
        """
        del shared_statistics
        own = seeding.key(self.seed, "my scenario", "wave")
        amplitude = 0.5 + 2 * seeding.uniform(own, clients, 1)
        phase = seeding.uniform(seeding.key(self.seed, "my scenario", "phase"), clients, 1) * 3
        drawn = seeding.key(self.seed, "my scenario", split, round if split == "train" else 0)
        x = 10 * seeding.uniform(drawn, clients, 2 * self.shots, 1) - 5
        y = amplitude * torch.sin(x[..., 0] + phase)
        support, query = slice(None, self.shots), slice(self.shots, None)
        task = Task(Batch(x[:, support], y[:, support]), Batch(x[:, query], y[:, query]))
        return [TaskGroup(tuple(clients), task)]

    def references(self) -> tuple[Reference, ...]:
        """Return predictors that no gradient trains; strategies are compared with them."""
        return (references.constant(references.NUMBERS), references.least_squares())
