"""Tabular: decision processes so small that meta-gradients through episodes are known exactly.

A client is a process with two states, two actions and two steps. An example is the process itself:
all eight trajectories with their probabilities, so every loss is an expectation, and what an
estimator of second derivatives yields is known to rounding. At theta = (.3, -.4), rate .5, the
process of `environments.tables` has J = 1.282325, and one step leads to F = 1.448439:

    exact = dice    grad F = (.376326, -.437643)
    first order     (.375977, -.433001)     0.8 % off
    lvc             (.365351, -.414456)     4.4 %
    naive           (.306543, -.408069)    13.1 %

So the naive estimator is worse than no second derivative at all. The limit of a long horizon and
of sampling is not shown here: see ``navigation``. Foerster et al. DiCE. ICML 2018.
arXiv:1802.05098. Made-up processes.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from fedmaml.core import score_function, seeding
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.core.trees import Tree
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.environments import tables
from fedmaml.simulations.environments.acting import Prediction
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_META = {"inner.lr": 2.0, "inner.steps": 1, "outer.lr": 0.03, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 2.0, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 2.0, "adaptation.steps": 1}  # fmt: skip


class Enumerated(nn.Module):
    """A policy of one logit for each state; it plays every trajectory."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tree) -> Prediction:
        """Map processes to trajectories, entries ``(processes, 8, ...)``."""
        return tables.trajectories(self.logits, x["transition"], x["reward"])._asdict()


@settings
class Tabular(Scenario):
    """Small decision processes.

    Attributes:
        seed: Determines the processes.
        train_clients: Clients that may be drawn for training.
        validation_clients: Clients for evaluation during training.
        test_clients: Clients for the final evaluation.
        estimator: Of the policy gradient: "dice", "lvc" or "naive"; "exact" differentiates the
            expected return itself, which only such a process allows.
    """

    about: ClassVar[str] = "tiny decision processes: the meta-gradient through episodes is known"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 300, "clients": 20, "dtype": "float64"},
        "local": {"rounds": 0, "inner.lr": 2.0, "inner.steps": 1},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.03,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
    }  # fmt: skip
    expected: ClassVar[Mapping[str, str]] = {
        "support-query-overlap": "an example is a process itself, not a sample of it",
    }

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 200
    validation_clients: Annotated[int, Ge(0)] = 100
    test_clients: Annotated[int, Gt(0)] = 200
    estimator: Literal["exact", "dice", "lvc", "naive"] = "dice"

    def problem(self) -> Problem:
        metric = Metric("return", "reward", "higher", -math.inf, _mean_return)
        loss = partial(expected_loss, estimator=self.estimator)
        return Problem(Enumerated, loss, (metric,), head="")

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return 2

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        key = seeding.key(self.seed, "tabular")
        x = {
            "transition": seeding.uniform(seeding.key(key, "transition"), clients, 1, 2, 2),
            "reward": seeding.normal(seeding.key(key, "reward"), clients, 1, 2, 2),
        }
        batch = Batch(x, torch.zeros(len(clients), 1, dtype=torch.float64))
        return [TaskGroup(tuple(clients), Task(batch, batch))]


def expected_loss(prediction: Prediction, y: Tensor, estimator: str) -> Tensor:
    """Return the expectation of an estimator's loss over all trajectories, ``(processes,)``."""
    del y
    log_prob, rewards, prob = (prediction[name] for name in ("log_prob", "rewards", "prob"))
    if estimator == "exact":
        return -(prob * rewards.sum(-1)).sum(-1)
    if estimator == "dice":
        losses = score_function.dice(log_prob, rewards)
    else:
        advantages = score_function.returns_to_go(rewards)
        chosen: Literal["naive", "lvc"] = "naive" if estimator == "naive" else "lvc"
        losses = score_function.surrogate(chosen, log_prob, advantages)
    return (prob.detach() * losses).sum(-1)


def _mean_return(prediction: Prediction, y: Tensor) -> Tensor:
    del y
    return (prediction["prob"] * prediction["rewards"].sum(-1)).sum(-1).mean()
