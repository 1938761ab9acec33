"""Soft actor-critic: an actor and two critics, which learn from what was played before.

    act        u = mean(s) + deviation(s) noise,  move = tanh u
    critics    (Q_i(s, move) - r - discount (min_j slow Q_j(s', move') - temperature log pi))^2
    actor      temperature log pi(move | s) - min_i Q_i(s, move), the critics held constant

``slow`` are copies of the critics that follow them. An episode has no end of its own: the value
after its last step counts. What is played has no derivative. An episode that is gone over again
takes its noise from the next one at hand, on which its states do not depend. A latent enters actor
and critics; what infers it learns from the critics alone.

Haarnoja, Zhou, Abbeel, Levine. Soft Actor-Critic. ICML 2018. arXiv:1801.01290. Twin critics:
Fujimoto, van Hoof, Meger. TD3. ICML 2018. arXiv:1802.09477.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmaml.core.trees import Tree
from fedmaml.simulations.environments.acting import Prediction
from fedmaml.simulations.environments.base import Environment, rollout

_MIN_LOG_STD, _MAX_LOG_STD = -5.0, 2.0
_CRITICS = 2


class _Recorded(NamedTuple):
    """Episodes as rows of a replay hold them.

    Attributes:
        observations: One more than steps, ``(rows, steps + 1, observed)``.
        moves: ``(rows, steps, moves)``.
        noise: Of the actor, in the same shape.
        rewards: ``(rows, steps, 1)``.
    """

    observations: Tensor
    moves: Tensor
    noise: Tensor
    rewards: Tensor


class ActorCritic(nn.Module):
    """Actor and critics, for environments that take tanh of an action.

    Inputs are the world's entries and ``noise`` ``(episodes, steps, moves)``; or episodes that were
    played before, as ``played``.

    Args:
        environment: Where it acts.
        observed: Numbers that it sees.
        moves: Numbers of an action.
        hidden: Width of the two hidden layers of each part.
        temperature: Weight of the entropy, per nat.
        noticed: What a client knows of the rewards that the critics learn from.
    """

    held_constant = "the episodes that it plays"
    latent_enters: tuple[str, ...] = ("actor.0.bias", "critics.bias1")
    latent_held: tuple[str, ...] = ("actor.0.bias",)

    def __init__(
        self,
        environment: Environment,
        observed: int,
        moves: int,
        hidden: int,
        temperature: float,
        noticed: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.environment, self.temperature, self.noticed = environment, temperature, noticed
        steps = environment.horizon
        self._shapes = (steps + 1, observed), (steps, moves), (steps, moves), (steps, 1)
        self.played = sum(map(math.prod, self._shapes))
        self.context = 2 * observed + moves + 1
        sizes = (observed, hidden, hidden, 2 * moves)
        parts = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
        self.actor = nn.Sequential(*parts[:-1])
        self.critics = _Critics(observed + moves, hidden)
        self.slow = nn.ModuleDict({"critics": _Critics(observed + moves, hidden)})

    def forward(self, x: Tree) -> Prediction:
        """Play episodes, or go over some."""
        if "played" in x:
            return self._recalled(self._recorded(x["played"]))
        with torch.no_grad():
            found = rollout(self.environment, self._choose, x, x["noise"], x["noise"])
            last = self.environment.observe(x, found.states[:, -1], self.environment.horizon)
            seen = torch.cat([found.observations, last[:, None]], 1)
            parts = seen, torch.tanh(found.actions), x["noise"], found.rewards[..., None]
        rows = torch.cat([part.flatten(1) for part in parts], 1)
        return {"played": rows, "rewards": found.rewards, "states": found.states}

    def context_of(self, rows: Tensor) -> Tensor:
        """Return (s, move, noticed reward, s') of each step."""
        seen, moves, _, rewards = self._recorded(rows)
        return torch.cat([seen[:, :-1], moves, self.noticed(rewards), seen[:, 1:]], -1)

    def _recorded(self, rows: Tensor) -> _Recorded:
        parts = torch.split(rows, [math.prod(shape) for shape in self._shapes], -1)
        pairs = zip(parts, self._shapes, strict=True)
        return _Recorded(*(torch.unflatten(part, -1, shape) for part, shape in pairs))

    def _choose(self, observations: Tensor, noise: Tensor) -> Tensor:
        mean, deviation = self._normal(observations)
        return mean + deviation * noise

    def _normal(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the action."""
        mean, log_deviation = self.actor(observations).chunk(2, -1)
        return mean, log_deviation.clamp(_MIN_LOG_STD, _MAX_LOG_STD).exp()

    def _recalled(self, row: _Recorded) -> Prediction:
        """Return Q of what was done, and values by what would be done now, ``(rows, steps)``."""
        now, after = row.observations[:, :-1], row.observations[:, 1:]
        noise = row.noise.roll(1, 0)
        noise = torch.cat([noise, noise[:, :1]], 1)
        mean, deviation = self._normal(row.observations)
        action = mean + deviation * noise
        cost = self.temperature * _log_prob(action, deviation, noise)
        moves = torch.tanh(action)
        by_actor = self.critics(now, moves[:, :-1], constant=True)
        later = self.slow["critics"](after, moves[:, 1:], constant=True).detach()
        return {
            "q": self.critics(now, row.moves),
            "gain": by_actor.amin(0) - cost[:, :-1],
            "after": later.amin(0) - cost[:, 1:].detach(),
            "rewards": row.rewards[..., 0],
        }


def _log_prob(action: Tensor, deviation: Tensor, noise: Tensor) -> Tensor:
    """Return log-densities of tanh of an action, without the last axis."""
    # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)), without cancellation
    slope = 2 * (math.log(2) - action - F.softplus(-2 * action))
    terms = -0.5 * noise**2 - deviation.log() - 0.5 * math.log(2 * math.pi) - slope
    return terms.sum(-1)


class _Critics(nn.Module):
    """Critics with two hidden layers, side by side in the same tensors.

    Args:
        inputs: Numbers that they get.
        hidden: Width of each hidden layer of each critic.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.weight1 = _drawn_from(inputs, inputs, _CRITICS * hidden)
        self.bias1 = _drawn_from(inputs, _CRITICS * hidden)
        self.weight2 = _drawn_from(hidden, _CRITICS, hidden, hidden)
        self.bias2 = _drawn_from(hidden, _CRITICS, 1, hidden)
        self.weight3 = _drawn_from(hidden, _CRITICS, hidden, 1)
        self.bias3 = _drawn_from(hidden, _CRITICS, 1, 1)

    def forward(self, observations: Tensor, moves: Tensor, constant: bool = False) -> Tensor:
        """Return Q, ``(critics, rows, steps)``.

        Args:
            observations: ``(rows, steps, observed)``.
            moves: ``(rows, steps, moves)``.
            constant: Whether no derivative in the critics' own parameters passes.
        """
        x = torch.cat([observations, moves], -1)
        own = (self.weight1, self.bias1, self.weight2, self.bias2, self.weight3, self.bias3)
        weight1, bias1, weight2, bias2, weight3, bias3 = (
            (part.detach() for part in own) if constant else own
        )
        hidden = (x.flatten(0, 1) @ weight1 + bias1).relu()
        hidden = hidden.unflatten(-1, (_CRITICS, -1)).transpose(0, 1)  # type: ignore[no-untyped-call]
        hidden = torch.baddbmm(bias2, hidden, weight2).relu()
        return torch.baddbmm(bias3, hidden, weight3).view(_CRITICS, *x.shape[:-1])


def _drawn_from(inputs: int, *shape: int) -> nn.Parameter:
    """Return a parameter drawn as PyTorch draws those of a linear layer of that many inputs."""
    return nn.Parameter(torch.empty(shape).uniform_(-1, 1) / inputs**0.5)


def actor_critic_loss(prediction: Prediction, y: Tensor, *, discount: float = 0.9) -> Tensor:
    """Return the loss of each episode, critics and actor together: a mean over steps."""
    del y
    target = prediction["rewards"] + discount * prediction["after"]
    missed = (prediction["q"] - target).square().sum(0)
    return (missed - prediction["gain"]).mean(-1)
