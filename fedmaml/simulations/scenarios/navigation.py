"""Navigation: a point in the plane that must find where its goal is, in an episode or two.

A client has a goal, uniform on [-.5, .5]^2, which the policy does not see: it sees the place, and
is rewarded by minus the distance, in each of 100 steps. The examples are episodes still to be
played: goal and the noise of the actions. Every gradient step has episodes of its own, ``batch`` of
``inner``; for evaluation there are three such parts. Policy: 2-100-100-2 and a deviation.

The recipe's policy gradients take a linear baseline and normalised advantages. So a step at the
goal is as long as one far from it: the steps after the first are half as long, as in the paper's
test (``inner.later``). After 250 rounds MAML earns what standing still does before a step, a third
of it after one, and what exploration costs at the goal after three (docs/results.md).

Finn, Abbeel, Levine. Model-Agnostic Meta-Learning. ICML 2017, section 5.3. arXiv:1703.03400.
Deviation: plain policy gradients and Adam; the paper's outer step is TRPO. Made-up goals.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import TaskGroup
from fedmaml.core.trees import Tree
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.environments.acting import (
    Acting,
    GaussianPolicy,
    environment_steps,
    mean_return,
    played,
    playing,
    policy_loss,
)
from fedmaml.simulations.environments.navigation import PointNavigation, straight_to
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_STAGES = 3  # parts of an evaluated client's support, one for each step
_STEPS = {"lr": 0.5, "steps": 1, "batch": 20, "later": 0.5}
_INNER = {f"inner.{name}": value for name, value in _STEPS.items()}
_META = _INNER | {"outer.lr": 0.003}
_AVERAGING = {
    "inner.lr": 0.5, "inner.steps": 2, "inner.batch": 20, "outer.optimizer": "sgd", "outer.lr": 1.0,
    **{f"adaptation.{name}": value for name, value in _STEPS.items()},
}  # fmt: skip


@settings
class Navigation(Scenario):
    """Points that look for their goals.

    Attributes:
        seed: Determines goals and noise.
        train_clients: Clients that may be drawn for training.
        validation_clients: Clients for evaluation during training.
        test_clients: Clients for the final evaluation.
        episodes: Episodes of one gradient step, and of the query.
        estimator: Of the policy gradient.
        hidden: Width of the policy's two hidden layers.
        horizon: Steps of an episode.
        null: Whether clients adapt to another client's goal, so that there is nothing to learn.
    """

    about: ClassVar[str] = "a point looks for an unknown goal: adapting a policy in an episode"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 80, "clients": 20, "evaluation.steps": [2, 3]},
        "local": _INNER | {"rounds": 0},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.003},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 10_000
    validation_clients: Annotated[int, Ge(0)] = 20
    test_clients: Annotated[int, Gt(0)] = 40
    episodes: Annotated[int, Gt(1)] = 20
    estimator: Literal["lvc", "naive"] = "lvc"
    hidden: Annotated[int, Ge(1)] = 100
    horizon: Annotated[int, Ge(1)] = 100
    null: bool = False

    def problem(self) -> Problem:
        metric = Metric("return", "reward", "higher", -math.inf, mean_return, most=0)
        sizes, environment = (2, self.hidden, self.hidden, 2), PointNavigation(self.horizon)
        return Problem(
            lambda: Acting(environment, GaussianPolicy(sizes)),
            partial(policy_loss, estimator=self.estimator),
            (metric,),
            head="",
            counters=(environment_steps(self.horizon),),
        )

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return 2 * self.episodes

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        draw = seeding.key(self.seed, "navigation", split, round if split == "train" else 0)
        own = {"goal": self.goals(clients)}
        shown = {"goal": self.goals([client + 1 for client in clients])} if self.null else own
        counts = (self.episodes * (1 if split == "train" else _STAGES), self.episodes)
        return [played(draw, clients, (shown, own), counts, (self.horizon, 2))]

    def references(self) -> tuple[Reference, ...]:
        still = Reference("standing still", "never moves", partial(self._moved, False))
        about = "straight to the goal at full speed"
        return (still, Reference("oracle", about, partial(self._moved, True), oracle=True))

    def goals(self, clients: Sequence[int]) -> Tensor:
        """Return goals ``(clients, 2)``."""
        return seeding.uniform(seeding.key(self.seed, "navigation", "goal"), clients, 2) - 0.5

    def _moved(self, moves: bool, _clients: TrainingClients) -> Adapt:
        def rule(x: Tree, place: Tensor) -> Tensor:
            return straight_to(x["goal"], place) if moves else torch.zeros_like(place)

        return playing(PointNavigation(self.horizon), rule)
