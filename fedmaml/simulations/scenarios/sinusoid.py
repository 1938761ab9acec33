"""Sinusoid regression: the benchmark of the MAML paper, exactly.

A client is a curve y = amplitude * sin(x - phase), amplitude ~ U[0.1, 5], phase ~ U[0, pi]; it
sees ``shots`` points x ~ U[-5, 5] and is evaluated on others by squared error. In training support
and query are drawn anew each round, ``shots`` points each; in evaluation the support has
``test_shots`` points and the query ``test_queries``.

Finn, Abbeel, Levine. Model-Agnostic Meta-Learning. ICML 2017, section 5.1 and appendix C.
"""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import squared_error
from fedmaml.core.metrics import MEAN_SQUARED_ERROR
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations.scenario import Recipes, Scenario, Split


@settings
class Sinusoid(Scenario):
    """Sinusoid regression.

    Attributes:
        seed: Determines curves and points.
        train_clients: Curves that may be chosen for training.
        validation_clients: Curves for evaluation during training.
        test_clients: Curves for the final evaluation.
        shots: Support and query points of a training task.
        test_shots: Support points in evaluation.
        test_queries: Query points in evaluation.
    """

    about: ClassVar[str] = "sinusoid regression, the MAML paper's benchmark (Finn et al. 2017)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 2000, "clients": 25, "inner.lr": 0.01, "inner.steps": 1,
              "outer.optimizer": "adam", "outer.lr": 0.001},
        "local": {"rounds": 0, "inner.lr": 0.01, "inner.steps": 100},
        "fedavg": {"inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
                   "adaptation.lr": 0.01, "adaptation.steps": 10},
        "fedprox": {"inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
                    "adaptation.lr": 0.01, "adaptation.steps": 10},
        "reptile": {"inner.lr": 0.02, "inner.steps": 10, "outer.optimizer": "sgd", "outer.lr": 0.5,
                    "adaptation.lr": 0.02, "adaptation.steps": 10},
        "fedrep": {"inner.lr": 0.001, "inner.steps": 5, "head.lr": 0.001, "adaptation.lr": 0.001,
                   "outer.optimizer": "sgd", "outer.lr": 1.0},
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 1_000_000
    validation_clients: Annotated[int, Ge(0)] = 100
    test_clients: Annotated[int, Gt(0)] = 600
    shots: Annotated[int, Gt(0)] = 10
    test_shots: Annotated[int, Gt(0)] = 5
    test_queries: Annotated[int, Gt(0)] = 100

    def problem(self) -> Problem:
        return Problem(lambda: MLP((1, 40, 40, 1)), squared_error, (MEAN_SQUARED_ERROR,))

    def clients(self) -> dict[Split, range]:
        first_test = self.train_clients + self.validation_clients
        return {
            "train": range(self.train_clients),
            "validation": range(self.train_clients, first_test),
            "test": range(first_test, first_test + self.test_clients),
        }

    def statistics(self, client: int) -> Params:
        return {}

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        training = split == "train"
        shots = self.shots if training else self.test_shots
        queries = self.shots if training else self.test_queries
        curve = seeding.uniform(seeding.key(self.seed, "sinusoid", "curve"), clients, 2, 1, 1)
        amplitude, phase = 0.1 + 4.9 * curve[:, 0], math.pi * curve[:, 1]
        points = seeding.key(self.seed, "sinusoid", split, round if training else 0)
        x = 10 * seeding.uniform(points, clients, shots + queries, 1) - 5
        y = amplitude * (x - phase).sin()
        support, query = Batch(x[:, :shots], y[:, :shots]), Batch(x[:, shots:], y[:, shots:])
        return [TaskGroup(tuple(clients), Task(support, query))]
