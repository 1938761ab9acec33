"""Patients: the dose of a drug from a few blood samples, when the best predictor is known.

One compartment, a dose into the vein. A patient has phi = (log V, k) ~ N(mu, Sigma), volume in
litres and elimination rate per hour; a sample t hours after the dose says

    y = log(concentration / dose) = -log V - k t + 0.15 e,     e ~ N(0, 1)

``shots`` samples are taken at times U(.5, 12), training queries at U(1, 24). An evaluated patient's
query is the curve without noise, every half hour up to 24. All is linear in phi, so the posterior
mean is the best predictor and its risk is

    E tr(M (Sigma^-1 + X'X / 0.15^2)^-1),     M the mean of x x' over the query,   tr(M Sigma) alone

The network is phi itself, with 10 k in place of k (prior knowledge of the scales): -w_1 - w_2 t/10.
MAML's start is the patients' mean, and so is FedAvg's; a few steps of one rate are no Sigma^-1, so
ridge regression under the training patients' own mean and covariance is better than both. FOMAML's
mean update is `fomaml_matrix` (theta - mu): where it has a negative eigenvalue the start runs off.

Rowland, Tozer. Clinical Pharmacokinetics and Pharmacodynamics. 2011. Made-up patients.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.linear import Prior
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import MEAN_SQUARED_ERROR
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

NOISE = 0.15
MEAN = torch.tensor([3.4, 0.25], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.09, -0.006], [-0.006, 0.0064]], dtype=torch.float64)
CURVE = torch.arange(1, 49, dtype=torch.float64) / 2
"""Hours of the query of an evaluated patient."""

_QUERIES = 8
_START = (3.0, 3.0)  # log V and 10 k before training
_META = {"inner.lr": 0.4, "inner.steps": 5, "outer.lr": 0.03, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.2, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.8, "adaptation.steps": 50}  # fmt: skip


class Elimination(nn.Module):
    """y = -w_1 - w_2 t / 10; the input is (-1, -t / 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([_START]))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(samples, 2)`` to ``(samples, 1)``."""
        output: Tensor = self.head(x)
        return output


@settings
class Patients(Scenario):
    """One-compartment patients with a known distribution.

    Attributes:
        seed: Determines patients and samples.
        train_clients: Patients who train.
        validation_clients: Patients for evaluation during training.
        test_clients: Patients for the final evaluation.
        shots: Samples of a patient.
    """

    about: ClassVar[str] = "a drug's concentration from a few samples: the best predictor is known"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 400, "clients": 50, "dtype": "float64"},
        "local": {"rounds": 0, "inner.lr": 0.8, "inner.steps": 50},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.03,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 200
    validation_clients: Annotated[int, Ge(0)] = 200
    test_clients: Annotated[int, Gt(0)] = 4000
    shots: Annotated[int, Gt(0)] = 4

    def problem(self) -> Problem:
        return Problem(Elimination, half_squared_error, (MEAN_SQUARED_ERROR,))

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return self.shots + _QUERIES

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        key = seeding.key(self.seed, "patients", split, round if split == "train" else 0)
        count = self.shots + _QUERIES
        share = seeding.uniform(key, clients, count)
        noise = NOISE * seeding.normal(seeding.key(key, "noise"), clients, count)
        hours = torch.cat([0.5 + 11.5 * share[:, : self.shots], 1 + 23 * share[:, self.shots :]], 1)
        phi = self.phi(clients)
        support = _samples(hours[:, : self.shots], phi, noise[:, : self.shots])
        if split == "train":
            query = _samples(hours[:, self.shots :], phi, noise[:, self.shots :])
        else:
            query = _samples(CURVE.expand(len(clients), -1), phi, torch.zeros(1, 1))
        return [TaskGroup(tuple(clients), Task(support, query))]

    def references(self) -> tuple[Reference, ...]:
        about = "the posterior mean, given the patients' distribution"
        return (
            references.least_squares(references.identity),
            references.ridge(references.identity, (0.001, 0.01, 0.1)),
            references.ridge_to_the_mean(references.identity, (0.01, 0.02, 0.04, 0.08, 0.16)),
            references.hierarchical_ridge(references.identity),
            references.posterior_mean(prior, about),
        )

    def phi(self, clients: Sequence[int]) -> Tensor:
        """Return (log V, k) of patients, float64 ``(clients, 2)``."""
        own = seeding.normal(seeding.key(self.seed, "patients"), clients, 2)
        return MEAN + own @ torch.linalg.cholesky(COVARIANCE).T


def prior() -> Prior:
    """Return the distribution of the network's parameters, (log V, 10 k), and the noise."""
    scale = torch.tensor([1.0, 10.0], dtype=torch.float64)
    spread = COVARIANCE * torch.outer(scale, scale)
    return Prior(MEAN * scale, spread, torch.tensor(NOISE**2, dtype=torch.float64))


def inputs(hours: Tensor) -> Tensor:
    """Return (-1, -t / 10), ``(..., 2)``."""
    return torch.stack([-torch.ones_like(hours), -hours / 10], -1)


def bayes_risk(designs: Tensor) -> float:
    """Return the posterior mean's squared error of the curve, a mean over designs.

    Args:
        designs: Hours of samples, ``(designs, samples)``; no samples give tr(M Sigma).
    """
    known = prior()
    curve = inputs(CURVE)
    x = inputs(designs)
    precision = torch.linalg.inv(known.spread) + x.mT @ x / known.noise
    return float(torch.einsum("qi,dij,qj->dq", curve, torch.linalg.inv(precision), curve).mean())


def fomaml_matrix(shots: int, steps: int, lr: float, designs: int = 20_000) -> Tensor:
    """Return E[H_q (I - lr H_s)^steps], by which FOMAML's mean update multiplies theta - mu."""
    share = seeding.uniform(seeding.key(0, "designs"), range(designs), shots + _QUERIES)
    support = inputs(0.5 + 11.5 * share[:, :shots])
    query = inputs(1 + 23 * share[:, shots:])
    step = torch.eye(2, dtype=torch.float64) - lr * support.mT @ support / shots
    return (query.mT @ query / _QUERIES @ torch.linalg.matrix_power(step, steps)).mean(0)


def _samples(hours: Tensor, phi: Tensor, noise: Tensor) -> Batch:
    x = inputs(hours)
    return Batch(x, -phi[:, :1] - phi[:, 1:] * hours + noise)
