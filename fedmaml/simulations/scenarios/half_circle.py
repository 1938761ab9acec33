"""Half circle: goals on an arc, and a reward that may be seen from near only.

A client's goal lies on the upper unit half circle, at an angle uniform on (0, pi); a point starts
at the centre and moves by .1 tanh(u) in each of 20 steps. With ``radius = 0`` the reward is minus
the distance; else 1 - distance within the radius, and 0 elsewhere: an episode that does not come
near tells nothing, and must be explored. The headline is the share of episodes that end within .3
of the goal; "return" is the sparse one, whatever the policy learned from, so that both can be
compared. Full speed along both axes until each is right earns 14.06 of 20, a straight ray 13.88.

PEARL is made for this: it infers the goal from episodes, and explores by guesses of it. By its
recipe the context sees rewards from near only, while actor and critics learn from the distance
(`environments.actor_critic`): training knows more than a client that adapts. Context is what the
prior played (``explored``): where a client went for its reward would give the goal away.
docs/atlas/half_circle.md says what it reaches.

With full rewards a start learned by MAML is trained for one step; a second one overshoots, at half
the rate as well. Rakelly et al. Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic
Context Variables. ICML 2019. arXiv:1903.08254. Made-up goals.
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
from fedmaml.core.tasks import Task, TaskGroup
from fedmaml.core.trees import Tree
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.environments.acting import (
    Acting,
    GaussianPolicy,
    Prediction,
    environment_steps,
    played,
    playing,
    policy_loss,
)
from fedmaml.simulations.environments.actor_critic import ActorCritic, actor_critic_loss
from fedmaml.simulations.environments.navigation import HalfCircle as Environment
from fedmaml.simulations.environments.navigation import goals_on_half_circle, noticed
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split

NEAR = 0.3  # within which a goal is reached
_STAGES = 3
_TEMPERATURE = 0.02  # of the actor, by rewards of -distance
_STEPS = {"lr": 1.0, "steps": 1, "batch": 20, "later": 0.5}
_INNER = {f"inner.{name}": value for name, value in _STEPS.items()}
_META = _INNER | {"outer.lr": 0.003}
_AVERAGING = {
    "inner.lr": 0.5, "inner.steps": 2, "inner.batch": 20, "outer.optimizer": "sgd", "outer.lr": 1.0,
    **{f"adaptation.{name}": value for name, value in _STEPS.items()},
}  # fmt: skip


@settings
class HalfCircle(Scenario):
    """Points that look for goals on an arc.

    Attributes:
        seed: Determines goals and noise.
        train_clients: Clients that may be drawn for training.
        validation_clients: Clients for evaluation during training.
        test_clients: Clients for the final evaluation.
        episodes: Episodes of one gradient step, and of the query.
        radius: Within which the reward is seen; 0: everywhere.
        estimator: Of the policy gradient.
        hidden: Width of the two hidden layers of the policy, and of critics.
        condition: What the network sees beside its place: "nothing" or the "goal".
        null: Whether clients adapt to another client's goal, so that there is nothing to learn.
    """

    about: ClassVar[str] = "goals on a half circle, seen from near only or by their distance"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 200, "clients": 20, "evaluation.steps": [2, 3]},
        "local": _INNER | {"rounds": 0},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.003},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
        "pearl": {
            "rounds": 3200, "clients": 20, "outer.lr": 0.003, "outer.schedule": "cosine",
            "context": 12, "every": 1, "explored": True, "replay": 100, "batch": 4, "rate": 0.03,
            "kl": 0.015, "evaluation.steps": [], "evaluation.shots": [1, 2, 3, 5],
            "task.train_clients": 40, "task.radius": NEAR, "task.episodes": 2,
        },
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 10_000
    validation_clients: Annotated[int, Ge(0)] = 20
    test_clients: Annotated[int, Gt(0)] = 40
    episodes: Annotated[int, Gt(1)] = 20
    radius: Annotated[float, Ge(0)] = 0.0
    estimator: Literal["lvc", "naive"] = "lvc"
    hidden: Annotated[int, Ge(1)] = 64
    condition: Literal["nothing", "goal"] = "nothing"
    null: bool = False

    def problem(self) -> Problem:
        environment = Environment(radius=self.radius, shown=self._shown)
        sizes = (4 if self._shown else 2, self.hidden, self.hidden, 2)
        return Problem(
            lambda: Acting(environment, GaussianPolicy(sizes)),
            partial(policy_loss, estimator=self.estimator),
            (
                Metric("reached", "1", "higher", 0.0, _reached, least=0, most=1),
                Metric("return", "reward", "higher", 0.0, _sparse_return, least=0),
            ),
            head="",
            counters=(environment_steps(environment.horizon),),
            replayed=(self._actor_critic, actor_critic_loss),
        )

    def _actor_critic(self) -> ActorCritic:
        environment, seen = Environment(shown=self._shown), 4 if self._shown else 2
        known = partial(noticed, radius=self.radius)
        return ActorCritic(environment, seen, 2, self.hidden, _TEMPERATURE, known)

    @property
    def _shown(self) -> bool:
        return self.condition == "goal"

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return 2 * self.episodes

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        draw = seeding.key(self.seed, "half_circle", split, round if split == "train" else 0)
        own = {"goal": self.goals(clients)}
        shown = {"goal": self.goals([client + 1 for client in clients])} if self.null else own
        counts = (self.episodes * (1 if split == "train" else _STAGES), self.episodes)
        group = played(draw, clients, (shown, own), counts, (Environment().horizon, 2))
        sides = (batch._replace(y=batch.x["goal"]) for batch in group.tasks)  # what metrics need
        return [TaskGroup(group.clients, Task(*sides))]

    def references(self) -> tuple[Reference, ...]:
        about = "to the goal, at full speed along both axes"
        return (
            Reference("up", "walks up, to the middle of the arc", partial(_walking, None)),
            Reference("oracle", about, partial(_walking, "goal"), oracle=True),
        )

    def goals(self, clients: Sequence[int]) -> Tensor:
        """Return goals ``(clients, 2)``."""
        key = seeding.key(self.seed, "half_circle", "goal")
        return goals_on_half_circle(math.pi * seeding.uniform(key, clients))


def _distances(prediction: Prediction, goal: Tensor) -> Tensor:
    """Return distances to the goals after each step, ``(episodes, steps)``."""
    return (prediction["states"] - goal[:, None]).norm(dim=-1)


def _reached(prediction: Prediction, y: Tensor) -> Tensor:
    return (_distances(prediction, y)[:, -1] < NEAR).to(y.dtype).mean()


def _sparse_return(prediction: Prediction, y: Tensor) -> Tensor:
    distance = _distances(prediction, y)
    return torch.where(distance < NEAR, 1 - distance, 0.0).sum(-1).mean()


def _walking(entry: str | None, _clients: TrainingClients) -> Adapt:
    def rule(x: Tree, place: Tensor) -> Tensor:
        target = torch.tensor([0.0, 1.0]).to(place) if entry is None else x[entry]
        return torch.atanh(((target - place) / 0.1).clamp(-1 + 1e-6, 1 - 1e-6))

    return playing(Environment(), rule)
