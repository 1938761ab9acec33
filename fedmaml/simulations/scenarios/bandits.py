"""Bandits: a recurrent network learns to explore, and is compared with the rules that are optimal.

A client is a bandit: n arms that pay 1 with probabilities p ~ U(0, 1). A trial is H pulls; a
network reads what it pulled and what it got, and its state is all that it learns of the arms. For
10 pulls of 5 arms no policy can expect more than 6.660 (dynamic programming); the index of Gittins
and Whittle gets 6.653, pulling the largest posterior mean 6.647: at 10 pulls a result cannot tell a
learner that explores from one that does not, at 100 it can (78.5 against 75.7).

``network = "equivariant"``: the same small GRU reads each arm, so no order of arms matters, and
an arm is chosen by its own state and the mean of all; "plain": one GRU reads all arms. ``first``
begins training with shorter trials, which grow to ``pulls`` by round ``grown``. Losses are those
of an actor-critic: policy gradient by GAE (lambda .95), value and entropy.

Duan et al. RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning. 2016.
arXiv:1611.02779. Deviation: the equivariant network; policy gradients for TRPO. Made-up bandits.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import score_function, seeding
from fedmaml.core.counters import Counter
from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, TaskGroup
from fedmaml.core.trees import Tree
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.environments import bandit_rules
from fedmaml.simulations.environments.acting import Prediction, mean_return, played
from fedmaml.simulations.environments.pulling import EquivariantPulls, PlainPulls
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_DECAY, _OF_VALUE = 0.95, 0.5
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 1, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 1}  # fmt: skip
_META = {"inner.lr": 0.1, "inner.steps": 1, "outer.lr": 0.005, "outer.schedule": "linear"}


@settings
class Bandits(Scenario):
    """Bernoulli bandits.

    Attributes:
        seed: Determines arms and luck.
        train_clients: Clients that may be drawn for training.
        validation_clients: Clients for evaluation during training.
        test_clients: Clients for the final evaluation.
        arms: n.
        pulls: H, of a trial.
        trials: Trials of the support, and of the query.
        first: Pulls of a trial in round 1; 0: ``pulls``.
        grown: Round from which trials have ``pulls``.
        network: "equivariant" or "plain".
        entropy: Weight of the entropy in the loss.
        greedy: Whether evaluated clients pull the arm of the largest logit, or draw as in training.
    """

    about: ClassVar[str] = "bandits: a recurrent network learns to explore; Gittins beside it"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 600, "clients": 16},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 5},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.005,
                                 "outer.schedule": "linear"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
        "rl2": {"outer.lr": 0.005, "outer.schedule": "linear"},
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 1_000_000
    validation_clients: Annotated[int, Ge(0)] = 200
    test_clients: Annotated[int, Gt(0)] = 1000
    arms: Annotated[int, Gt(1)] = 5
    pulls: Annotated[int, Gt(0)] = 10
    trials: Annotated[int, Gt(0)] = 8
    first: Annotated[int, Ge(0)] = 0
    grown: Annotated[int, Ge(0)] = 0
    network: Literal["equivariant", "plain"] = "equivariant"
    entropy: Annotated[float, Ge(0)] = 0.01
    greedy: bool = True

    def problem(self) -> Problem:
        arms, make = self.arms, EquivariantPulls if self.network == "equivariant" else PlainPulls
        metric = Metric("reward", "reward", "higher", 0.0, mean_return, least=0, most=self.pulls)
        about = "pulls of an arm"
        return Problem(
            lambda: make(arms),
            partial(actor_critic, entropy=self.entropy),
            (metric,),
            head="",
            counters=(Counter("environment_steps", about, lambda x, _y: x["noise"].numel()),),
        )

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return 2 * self.trials

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        training = split == "train"
        draw = seeding.key(self.seed, "bandits", split, round if training else 0)
        pulls = self._pulls_in(round) if training else self.pulls
        greedy = float(self.greedy and not training)
        world = {
            "pays": seeding.uniform(seeding.key(self.seed, "bandits"), clients, self.arms),
            "greedy": torch.full((len(clients),), greedy, dtype=torch.float64),
        }
        counts = (self.trials, self.trials)
        return [
            played(draw, clients, (world, world), counts, (pulls,), chance=(pulls, 1),
                   draws=seeding.uniform)
        ]  # fmt: skip

    def references(self) -> tuple[Reference, ...]:
        index = partial(bandit_rules.by_index, self.pulls)
        rules = (
            ("index", "Gittins and Whittle: the index for the pulls that are left", index),
            ("greedy", "the largest posterior mean", lambda: bandit_rules.by_mean),
            ("thompson", "draws from the arms' posteriors", lambda: bandit_rules.by_sampling(0)),
            ("ucb1", "upper confidence bounds", lambda: bandit_rules.by_upper_bound),
        )
        return (
            *(Reference(name, about, partial(_by_rule, make)) for name, about, make in rules),
            Reference("oracle", "the best arm from the first pull on", _best_arm, oracle=True),
        )

    def _pulls_in(self, round: int) -> int:
        if not self.first or round >= self.grown:
            return self.pulls
        return self.first + (self.pulls - self.first) * round // self.grown


def actor_critic(prediction: Prediction, y: Tensor, entropy: float) -> Tensor:
    """Return the loss of each trial: policy gradient, value and entropy, as means over pulls.

    Advantages are centred over the client's trials. Errors of values are those of a pull: errors of
    whole trials of 100 pulls outweigh the policy, which then stays uniform.
    """
    del y
    rewards, values = prediction["rewards"], prediction["value"]
    advantages = score_function.generalised_advantages(rewards, values.detach(), 1.0, _DECAY)
    centred = advantages - advantages.mean()
    policy = score_function.surrogate("lvc", prediction["log_prob"], centred)
    missed = (values - score_function.returns_to_go(rewards)).square().sum(-1)
    pulls = rewards.shape[-1]
    losses = policy + _OF_VALUE / pulls**2 * missed - entropy * prediction["entropy"].sum(-1)
    return losses / pulls


def _by_rule(make: Any, _clients: TrainingClients) -> Adapt:
    scores = make()

    def predict(x: Tree) -> Prediction:
        found = bandit_rules.pull(scores, x, x["noise"], x["chance"])
        return {"rewards": found.rewards}

    def adapt(_support: Batch) -> Predictor:
        return predict

    return adapt


def _best_arm(_clients: TrainingClients) -> Adapt:
    def predict(x: Tree) -> Prediction:
        found = bandit_rules.pull(lambda *_: x["pays"].double(), x, x["noise"], x["chance"])
        return {"rewards": found.rewards}

    def adapt(_support: Batch) -> Predictor:
        return predict

    return adapt
