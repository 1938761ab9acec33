"""Delayed bandit: one choice, and the reward comes steps later. Everything is known exactly.

Choose 1 with probability p = sigmoid(theta), then wait ``d`` steps: the reward is 1 if the choice
was the paying one, discounted by .9 for each step. With s = +1 or -1 for the paying action and
c = .9^d,

    J = c sigmoid(s theta),  J' = s c p (1 - p),  J'' = s c p (1 - p) (1 - 2 p)

The clients are symmetric: each delay with either action. So the best start is theta = 0, where the
gradient is largest, and who starts at theta = 6 has a hundredth of it: training over clients
saturates there, too. If most clients paid for the same action, the best start would be elsewhere.

``episodes = 0`` plays both actions, weighted by their probabilities: losses are expectations, and
MAML from 3 reaches 0 to rounding. Finn, Abbeel, Levine. Model-Agnostic Meta-Learning. ICML 2017.
arXiv:1703.03400. Made-up bandits.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from fedmaml.core import score_function, seeding
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.score_function import Estimator
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.core.trees import Tree
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.environments import rollout
from fedmaml.simulations.environments.acting import Prediction, environment_steps, played
from fedmaml.simulations.environments.bandits import DelayedBandit as Environment
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split

DISCOUNT = 0.9
DELAYS: Mapping[Split, tuple[int, ...]] = {
    "train": (1, 5, 10), "validation": (4, 8), "test": (2, 3, 7, 15),
}  # fmt: skip
_HORIZON = 16
_META = {"inner.lr": 10.0, "inner.steps": 1, "outer.optimizer": "sgd", "outer.lr": 1.0}
_AVERAGING = {"inner.lr": 1.0, "inner.steps": 1, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 10.0, "adaptation.steps": 1}  # fmt: skip


class Choice(nn.Module):
    """One logit; the choice is drawn with the noise, or both choices are played."""

    held_constant = "the choice"

    def __init__(self, start: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tree) -> Prediction:
        """Map bandits to trajectories ``(episodes, trajectories, steps)`` and their weights."""
        p = self.logit.detach().sigmoid()
        if "noise" in x:
            action = (x["noise"] < p).long()
            weight = torch.ones_like(x["noise"])
        else:
            action = torch.arange(2, device=p.device).expand(len(x["pays"]), 2)
            weight = torch.where(action == 1, p, 1 - p)
        log_prob = F.logsigmoid(torch.where(action == 1, self.logit, -self.logit))
        flat = action.reshape(-1)
        world = {name: x[name][:, None].expand_as(weight).reshape(-1) for name in ("pays", "delay")}
        steps = torch.zeros(len(flat), _HORIZON, 0, dtype=p.dtype, device=p.device)
        with torch.no_grad():
            found = rollout(Environment(_HORIZON), lambda *_: flat, world, steps, steps)
        rewards = found.rewards.view(*action.shape, _HORIZON)
        later = torch.zeros_like(rewards[..., 1:])
        return {
            "log_prob": torch.cat([log_prob[..., None], later], -1),
            "rewards": score_function.discounted(rewards, DISCOUNT),
            "weight": weight,
        }


@settings
class DelayedBandit(Scenario):
    """Two actions, one of which pays after a while.

    Attributes:
        seed: Determines the episodes.
        episodes: Episodes of support and query; 0: both actions, weighted by their probabilities.
        start: The logit before training.
        estimator: Of the policy gradient.
    """

    about: ClassVar[str] = "two actions and a late reward: where a start can be adapted is known"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 1500, "clients": 6, "dtype": "float64"},
        "local": {"rounds": 0, "inner.lr": 10.0, "inner.steps": 1},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.01},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META | {"outer.lr": 0.3},
    }  # fmt: skip
    expected: ClassVar[Mapping[str, str]] = {}

    seed: int = 0
    episodes: Annotated[int, Ge(0)] = 20
    start: float = 3.0
    estimator: Estimator = "dice"

    def problem(self) -> Problem:
        metric = Metric("return", "1", "higher", 0.0, mean_return, least=0, most=1)
        start, loss = self.start, partial(choice_loss, estimator=self.estimator)
        steps = environment_steps(_HORIZON * (1 if self.episodes else 2))
        return Problem(lambda: Choice(start), loss, (metric,), head="", counters=(steps,))

    def clients(self) -> dict[Split, range]:
        return numbered(*(2 * len(delays) for delays in DELAYS.values()))

    def max_examples(self, client: int) -> int:
        return 2 * max(self.episodes, 1)

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        world = {
            "pays": torch.tensor([client % 2 for client in clients], dtype=torch.float64),
            "delay": torch.tensor([_delay(client) for client in clients], dtype=torch.float64),
        }
        if self.episodes == 0:
            x = {name: value[:, None] for name, value in world.items()}
            batch = Batch(x, torch.zeros(len(clients), 1, dtype=torch.float64))
            return [TaskGroup(tuple(clients), Task(batch, batch))]
        draw = seeding.key(self.seed, "delayed_bandit", split, round if split == "train" else 0)
        counts = (self.episodes, self.episodes)
        return [played(draw, clients, (world, world), counts, (1,), draws=seeding.uniform)]

    def references(self) -> tuple[Reference, ...]:
        return (
            Reference("either", "either action with probability 1/2", partial(_always, None)),
            Reference("oracle", "the paying action", partial(_always, 60.0), oracle=True),
        )


def choice_loss(prediction: Prediction, y: Tensor, estimator: Estimator) -> Tensor:
    """Return the loss of each example; rewards are discounted already."""
    del y
    log_prob, rewards = prediction["log_prob"], prediction["rewards"]
    if estimator == "dice":
        losses = score_function.dice(log_prob, rewards)
    else:
        gained = score_function.returns_to_go(rewards)
        losses = score_function.surrogate(estimator, log_prob, gained)
    return (prediction["weight"] * losses).sum(-1)


def mean_return(prediction: Prediction, y: Tensor) -> Tensor:
    """Return the mean discounted return."""
    del y
    return (prediction["weight"] * prediction["rewards"].sum(-1)).sum(-1).mean()


def _delay(client: int) -> int:
    delays = [delay for of_split in DELAYS.values() for delay in of_split]
    return delays[client // 2]


def _always(logit: float | None, _clients: TrainingClients) -> Adapt:
    """Return the reference whose logit is 0, or points to the action that pays."""

    def adapt(support: Batch) -> object:
        pays = support.x["pays"][0]
        network = Choice(0.0)
        value = torch.zeros_like(pays) if logit is None else logit * (2 * pays - 1)
        return lambda x: torch.func.functional_call(network, {"logit": value}, (x,))

    return adapt  # type: ignore[return-value]
