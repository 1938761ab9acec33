"""Synthesis: conditions at which a new material is made best, by few trials. Simulated.

Conditions c are temperature, time and ratio, each in [0, 1]; the yield of a material is

    height exp(-1/2 sum ((c - c*) / w)^2),     c* = .5 + .28 tanh(.9 M u + .05 e),  u in R^2

with widths w log-uniform in .18 to .4, height U(.6, 1), and a trial's noise of .03. M is fixed: the
best conditions of materials lie on a bent plane, which an archive of other materials can teach. A
training client has an archive of 60 random trials. A new one adapts on ``shots`` random trials, and
is evaluated on 400 candidates: "surface" is the error of their predicted yields, "regret" the share
of the height that is lost at the candidate which is predicted best. Every example is a trial and is
counted as one. `simulations.systems.trials` goes on, one chosen trial after another.

Shahriari, Swersky, Wang, Adams, de Freitas. Taking the Human Out of the Loop: A Review of Bayesian
Optimization. Proc. IEEE 104(1), 2016. There are no public records of whole families of syntheses,
failures included; these are made up.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.counters import Counter
from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references import gaussian_process as processes
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems.yields import (
    NOISE,
    Material,
    candidates,
    drawn,
    inputs,
    regret,
    surface_error,
)

_ARCHIVE, _FURTHER = 60, 5  # trials of a training client; those that a new one chooses but one
_VARIANCES, _LENGTHS, _SHARE = (0.03, 0.06, 0.12), (0.3, 0.5, 0.8, 1.2), 0.02
_META = {"inner.lr": 0.1, "inner.steps": 5, "outer.lr": 0.01, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.3, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.03, "adaptation.steps": 20}  # fmt: skip


@settings
class Synthesis(Scenario):
    """Yields of materials over conditions.

    Attributes:
        seed: Determines materials and trials.
        train_clients: Materials with an archive.
        validation_clients: Materials for evaluation during training.
        test_clients: Materials for the final evaluation.
        shots: Random trials of a new material.
        hidden: Width of the two hidden layers.
    """

    about: ClassVar[str] = "best conditions of a synthesis by few trials (simulated)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 600, "clients": 16},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 30},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"inner.lr": 0.1, "outer.optimizer": "adam", "outer.lr": 0.003,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"inner.steps": 10},
        "maml": _META, "fomaml": _META, "anil": _META, "meta_sgd": _META,
        "ridge_head": {"outer.lr": 0.003, "outer.schedule": "cosine"},
        "anp": {"outer.lr": 0.003, "outer.schedule": "cosine"},
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 80
    validation_clients: Annotated[int, Ge(0)] = 50
    test_clients: Annotated[int, Gt(0)] = 100
    shots: Annotated[int, Gt(0), Le(_ARCHIVE // 2)] = 6
    hidden: Annotated[int, Ge(1)] = 40

    def problem(self) -> Problem:
        metrics = (
            Metric("surface", "1", "lower", math.inf, surface_error, least=0),
            Metric("regret", "1", "lower", 1.0, regret, least=0, most=1),
        )
        sizes = (3, self.hidden, self.hidden, 1)
        trials = Counter("trials", "one synthesis, and its measured yield", _trials)
        return Problem(partial(MLP, sizes), half_squared_error, metrics, counters=(trials,))

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return _ARCHIVE

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        draw = seeding.key(self.seed, "synthesis", split, round if split == "train" else 0)
        conditions, measured = self.archive(clients)
        order = seeding.permutation(draw, clients, _ARCHIVE)
        x = inputs(conditions.gather(1, order[..., None].expand(-1, -1, 3)))
        y = measured.gather(1, order)
        shots = self.shots
        if split == "train":  # as many as a new material has from its first choice to its last
            shots += int(_FURTHER * float(seeding.uniform(draw, [0], 1)) + 0.5)
            query = Batch(x[:, shots:], y[:, shots:])
        else:
            query = self.candidates(clients)
        return [TaskGroup(tuple(clients), Task(Batch(x[:, :shots], y[:, :shots]), query))]

    def references(self) -> tuple[Reference, ...]:
        about = "a Gaussian process with the mean surface, and "
        return (
            references.constant(references.NUMBERS, "mean of the support"),
            processes.local_process(0.06, _LENGTHS, NOISE**2),
            Reference("Gaussian process", "its covariance fitted to the archives", fitted),
            Reference("pooled surface", "the mean of the archives' surfaces", pooled,
                      federated=False),
            Reference("Gaussian process, archive", about + "covariance of the archives", archived,
                      federated=False),
        )  # fmt: skip

    def materials(self, clients: Sequence[int]) -> Material:
        """Return what nature knows of the clients' materials."""
        key = seeding.key(self.seed, "synthesis")
        plane = seeding.normal(key, clients, 5)
        return drawn(plane, seeding.uniform(seeding.key(key, "shape"), clients, 4))

    def archive(self, clients: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return conditions ``(clients, 60, 3)`` of random trials, and what was measured."""
        key = seeding.key(self.seed, "synthesis", "trials")
        conditions = seeding.uniform(key, clients, _ARCHIVE, 3)
        noise = NOISE * seeding.normal(seeding.key(key, "noise"), clients, _ARCHIVE)
        return conditions, self.materials(clients).yields(conditions) + noise

    def candidates(self, clients: Sequence[int]) -> Batch:
        """Return all candidates and, in a last row, the best conditions; yields without noise."""
        of = self.materials(clients)
        same = candidates().expand(len(clients), -1, -1)
        conditions = torch.cat([same, of.best[:, None]], 1)
        return Batch(inputs(conditions), of.yields(conditions))


def fitted_process(clients: TrainingClients) -> processes.Process:
    """Return the process whose covariance fits the archives best."""
    return processes.fitted_process(clients, _VARIANCES, _LENGTHS, NOISE**2)


def archive_process(clients: TrainingClients) -> processes.Process:
    """Return the process with mean and covariance of the archives' surfaces."""
    return processes.archive_process(clients, fitted_process(clients), _SHARE)


def fitted(clients: TrainingClients) -> Adapt:
    """Return a process that takes its covariance from the archives."""
    return fitted_process(clients).adapt


def archived(clients: TrainingClients) -> Adapt:
    """Return a process that takes mean and covariance from the archives."""
    return archive_process(clients).adapt


def pooled(clients: TrainingClients) -> Adapt:
    """Return the mean of the archives' surfaces, whatever the support."""
    mean = archive_process(clients).mean

    def predict(x: Tensor) -> Tensor:
        return mean(x.double())[:, None].to(x.dtype)

    predictor: Predictor = predict
    return lambda _support: predictor


def _trials(_x: Tensor, y: Tensor) -> int:
    return len(y)
