"""Meta-parameters: the inner rate that a strategy must learn is known.

A client has its own centre c ~ N(0, tau^2 I_d) and sees it ``shots`` times with noise; the loss of
theta is h/2 |theta - y|^2. One inner step of rate a from theta = 0 leaves, without noise in the
query,

    F(a) = h d / 2 ((1 - a h)^2 tau^2 + (a h)^2 sigma^2 / n)
    a* = tau^2 / (tau^2 + sigma^2 / n) / h

Meta-SGD learns a*, at every entry. MAML and FOMAML find theta* = 0 at any rate but a = 1/h, where
theta is arbitrary: without noise, that is a*. Li, Zhou, Chen, Li. Meta-SGD: Learning to Learn
Quickly for Few-Shot Learning. arXiv:1707.09835, 2017. Made-up tasks.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import LinearModel
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_META = {"inner.lr": 0.1, "inner.steps": 1, "outer.lr": 0.02, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 5}  # fmt: skip


@settings
class MetaParameters(Scenario):
    """Noisy centres, of which one step takes the best part.

    Attributes:
        seed: Determines centres and noise.
        train_clients: Clients that may be drawn for training.
        validation_clients: Clients for evaluation during training.
        test_clients: Clients for the final evaluation.
        shots: n, support examples.
        dimension: d.
        curvature: h.
        spread: tau.
        noise: sigma.
    """

    about: ClassVar[str] = "noisy centres: the inner rate that must be learned is known"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 1000, "clients": 100, "dtype": "float64"},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 50},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.02,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 100_000
    validation_clients: Annotated[int, Ge(0)] = 100
    test_clients: Annotated[int, Gt(0)] = 1000
    shots: Annotated[int, Gt(0)] = 4
    dimension: Annotated[int, Gt(0)] = 10
    curvature: Annotated[float, Gt(0)] = 2.0
    spread: Annotated[float, Gt(0)] = 1.0
    noise: Annotated[float, Ge(0)] = 2.0

    def problem(self) -> Problem:
        def mean(prediction: Tensor, y: Tensor) -> Tensor:
            return loss(prediction, y, self.curvature).mean()

        metric = Metric("loss", "1", "lower", math.inf, mean, least=0)
        of_examples = partial(loss, curvature=self.curvature)
        outputs = self.dimension
        return Problem(lambda: LinearModel(1, outputs, bias=False), of_examples, (metric,))

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return self.shots + 1

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        key = seeding.key(self.seed, "meta_parameters")
        centre = self.spread * seeding.normal(key, clients, 1, self.dimension)
        draw = seeding.key(key, split, round if split == "train" else 0)
        noise = self.noise * seeding.normal(draw, clients, self.shots, self.dimension)
        ones = torch.ones(len(clients), self.shots, 1, dtype=torch.float64)
        support, query = Batch(ones, centre + noise), Batch(ones[:, :1], centre)
        return [TaskGroup(tuple(clients), Task(support, query))]

    def references(self) -> tuple[Reference, ...]:
        about = "the support's mean, shrunk by tau^2 / (tau^2 + sigma^2 / n)"
        mean = references.constant(references.NUMBERS, "mean of the support")
        return (
            replace(mean, about="the mean of the support"),
            Reference("oracle", about, self._shrunk, oracle=True),
        )

    def best_rate(self) -> float:
        """Return a*."""
        return self._shrinkage() / self.curvature

    def expected_loss(self, lr: float) -> float:
        """Return F(lr), after one step from 0."""
        left, noise = 1 - lr * self.curvature, lr * self.curvature * self.noise
        square = (left * self.spread) ** 2 + noise**2 / self.shots
        return self.curvature * self.dimension / 2 * square

    def _shrinkage(self) -> float:
        return self.spread**2 / (self.spread**2 + self.noise**2 / self.shots)

    def _shrunk(self, _clients: TrainingClients) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            centre = self._shrinkage() * support.y.mean(0)
            return lambda x: centre.expand(len(x), -1)

        return adapt


def loss(prediction: Tensor, y: Tensor, curvature: float) -> Tensor:
    """Return h/2 |prediction - y|^2 of each example."""
    return curvature / 2 * (prediction - y).square().sum(-1)
