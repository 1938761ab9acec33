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

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.losses import squared_error
from fedmaml.core.metrics import MEAN_SQUARED_ERROR
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, TaskGroup
from fedmaml.simulations.dealing import first_as_support, numbered
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references import least_squares
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
        "local": {"rounds": 0, "inner.lr": 0.0005, "inner.steps": 20},
        "fedavg": {"inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
                   "adaptation.lr": 0.01, "adaptation.steps": 10},
        "fedadam": {"inner.lr": 0.005, "inner.steps": 5, "outer.optimizer": "adam",
                    "outer.lr": 0.01, "adaptation.lr": 0.003, "adaptation.steps": 100},
        "fedprox": {"inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
                    "adaptation.lr": 0.01, "adaptation.steps": 10},
        "reptile": {"inner.lr": 0.005, "inner.steps": 5, "outer.lr": 0.01,
                    "adaptation.lr": 0.003, "adaptation.steps": 100},
        "cavia": {"inner.lr": 0.1, "outer.lr": 0.003, "outer.schedule": "cosine"},
        "family:model": {"outer.lr": 0.003, "outer.schedule": "cosine"},
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
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return 2 * self.shots

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
        return [first_as_support(clients, x, y, shots)]

    def references(self) -> tuple[Reference, ...]:
        about = "the posterior mean, given that the curve is a sine of this family"
        return (Reference("oracle", about, _oracle, oracle=True),)


def _oracle(clients: TrainingClients) -> Adapt:
    """Predict the posterior mean of the curve, which no predictor beats in squared error.

    y = a sin x + b cos x with a = amplitude cos(phase), b = -amplitude sin(phase), without noise:
    two points determine the curve, so the loss is 0.
    """
    exact = least_squares(_sine_and_cosine).fit(clients)

    def adapt(support: Batch) -> Predictor:
        if len(support.y) > 1:
            return exact(support)
        x, y = (value.double().reshape(()) for value in (support.x, support.y))
        mean = _mean_given_one_point(x, y)
        return lambda x: (_sine_and_cosine(x).double() @ mean).to(x.dtype)

    return adapt


def _mean_given_one_point(x: Tensor, y: Tensor) -> Tensor:
    """Return the posterior mean of (a, b), float64 ``(2, 1)``.

    At amplitude r two phases of a turn pass through the point: sin(x - phase) = y / r. The
    amplitude's posterior density on each is |d phase / d y| = 1 / sqrt(r^2 - y^2), uniform in t
    for r = |y| cosh(t); phases outside [0, pi] are impossible.
    """
    points = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    first = (0.1 / y.abs()).clamp(min=1.0).acosh()
    amplitude = y.abs() * (first + points * ((5.0 / y.abs()).acosh() - first)).cosh()
    angle = (y / amplitude).asin()
    phase = torch.cat([x - angle, x - math.pi + angle]) % (2 * math.pi)
    amplitude = amplitude.repeat(2)
    curves = torch.stack([amplitude * phase.cos(), -amplitude * phase.sin()], 1)
    return curves[phase <= math.pi].mean(0)[:, None]


def _sine_and_cosine(x: Tensor) -> Tensor:
    return torch.cat([x.sin(), x.cos()], 1)
