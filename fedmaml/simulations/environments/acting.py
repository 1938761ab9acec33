"""Networks that act: the forward pass plays episodes, whose world and noise are its input.

So every strategy that takes gradient steps on a loss learns to act, unchanged: the examples are
episodes, the loss is a policy gradient (`core.score_function`). What is played is constant; the
log-probabilities of what was done are computed for all steps at once, and are differentiable.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedmaml.core import score_function
from fedmaml.core.counters import Counter
from fedmaml.core.score_function import Estimator
from fedmaml.core.seeding import key, normal, uniform
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.core.trees import Tree, length
from fedmaml.simulations.environments.base import Environment, rollout
from fedmaml.simulations.reference import Adapt

Prediction = Mapping[str, Tensor]
"""What `Acting` returns: ``log_prob``, ``rewards`` and ``alive``, ``(episodes, steps)``, and
``observations`` and ``states``, with a further axis."""


class GaussianPolicy(nn.Module):
    """Actions mean(observation) + deviation * noise, one deviation for all states.

    Args:
        sizes: Widths from the observation to the action.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        layers = [nn.Linear(*pair) for pair in pairwise(sizes)]  # PyTorch's own start, a small one
        parts = [part for layer in layers for part in (layer, nn.ReLU())]
        self.mean = nn.Sequential(*parts[:-1])
        self.log_std = nn.Parameter(torch.zeros(sizes[-1]))

    def choose(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return actions for noise that is normal; 0 gives the mean action."""
        output: Tensor = self.mean(observation) + self.log_std.exp() * noise
        return output

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return log-densities, without the last axis."""
        scaled = (actions - self.mean(observations)) * torch.exp(-self.log_std)
        terms = -0.5 * scaled**2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return terms.sum(-1)


class Acting(nn.Module):
    """A policy at work: inputs are the world's entries, ``noise`` and, if needed, ``chance``."""

    held_constant = "the episodes that it plays"

    def __init__(self, environment: Environment, policy: GaussianPolicy) -> None:
        super().__init__()
        self.environment = environment
        self.policy = policy

    def forward(self, x: Tree) -> Prediction:
        """Play the episodes."""
        with torch.no_grad():
            played = rollout(
                self.environment, self.policy.choose, x, x["noise"], x.get("chance", x["noise"])
            )
        log_prob = self.policy.log_prob(played.observations, played.actions)
        return {
            "log_prob": log_prob, "rewards": played.rewards, "alive": played.alive,
            "observations": played.observations, "states": played.states,
        }  # fmt: skip


def policy_loss(
    prediction: Prediction, y: Tensor, *, estimator: Estimator = "lvc", discount: float = 0.99
) -> Tensor:
    """Return the loss of each episode: the surrogate, as a mean over steps.

    Advantages are returns to go less a linear baseline, fitted to the client's episodes at hand,
    and then normalised over them.
    """
    del y
    rewards, alive = prediction["rewards"], prediction["alive"]
    target = score_function.returns_to_go(rewards, discount)
    features = score_function.time_features(prediction["observations"])
    baseline = score_function.linear_baseline(features, target, alive)
    advantages = score_function.normalised(target - baseline, alive)
    losses = score_function.surrogate(estimator, prediction["log_prob"], advantages, alive)
    return losses / rewards.shape[-1]


def mean_return(prediction: Prediction, y: Tensor) -> Tensor:
    """Return the mean over episodes of the sum of rewards."""
    del y
    return prediction["rewards"].sum(-1).mean()


def playing(environment: Environment, rule: Callable[[Tree, Tensor], Tensor]) -> Adapt:
    """Return the adaptation of a reference: whatever the support, it acts by a rule.

    Args:
        environment: What it plays.
        rule: (inputs, observation) -> action.
    """

    def predict(x: Tree) -> Prediction:
        found = rollout(environment, lambda seen, _noise: rule(x, seen), x, x["noise"], x["noise"])
        return {"rewards": found.rewards, "states": found.states}

    return lambda _support: predict


def environment_steps(horizon: int) -> Counter:
    """Return the counter of steps; episodes that end early count whole."""

    def steps(x: Tree, y: Tree) -> int:
        del x
        return horizon * length(y)

    return Counter("environment_steps", "steps of the environment, at most", steps)


def played(
    draw: int,
    clients: Sequence[int],
    worlds: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    episodes: tuple[int, int],
    noise: Sequence[int],
    *,
    chance: Sequence[int] = (),
    draws: Callable[..., Tensor] = normal,
) -> TaskGroup:
    """Return tasks whose examples are episodes still to be played.

    Args:
        draw: Key of the noise.
        clients: Client numbers.
        worlds: Of support and of query; entries ``(clients, ...)``, the same in all episodes.
        episodes: How many are in support and in query.
        noise: Shape of an episode's noise.
        chance: Shape of what the environment itself draws, uniform; () for none.
        draws: Makes the noise of the policy.
    """
    sides = []
    for side, world, count in zip(Task._fields, worlds, episodes, strict=True):
        of_side = key(draw, side)
        x = {
            name: value[:, None].expand(len(clients), count, *value.shape[1:])
            for name, value in world.items()
        }
        x["noise"] = draws(key(of_side, "noise"), clients, count, *noise)
        if chance:
            x["chance"] = uniform(key(of_side, "chance"), clients, count, *chance)
        sides.append(Batch(x, torch.zeros(len(clients), count, dtype=torch.float64)))
    return TaskGroup(tuple(clients), Task(*sides))
