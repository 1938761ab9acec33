"""Recurrent networks that pull arms: the forward pass plays trials from an empty state.

Trials are played first, without derivatives; what was pulled is constant. Then the network reads
each trial as a sequence, which gives log-probabilities, values and entropies of all pulls at once.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from fedmaml.core.networks import GRU
from fedmaml.core.trees import Tree
from fedmaml.simulations.environments.acting import Prediction
from fedmaml.simulations.environments.bandits import BernoulliBandits, sampled_action
from fedmaml.simulations.environments.base import rollout


class Pulls(Protocol):
    """What `play` needs of a network for n arms."""

    arms: int

    def states(self, seen: Tensor, start: Tensor | None = None) -> Tensor:
        """Map observations ``(trials, pulls, n + 2)`` to states ``(trials, pulls, ...)``.

        Args:
            seen: The last arm, one-hot, its reward, and the share of pulls that is left.
            start: State before the first of these pulls; None: the empty one.
        """

    def heads(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Map states to logits ``(trials, pulls, n)`` and values ``(trials, pulls)``."""


class PlainPulls(nn.Module):
    """One GRU reads the last arm, one-hot, its reward, and the share of pulls that is left."""

    held_constant = "the arms that it pulls"

    def __init__(self, arms: int, hidden: int = 64) -> None:
        super().__init__()
        self.arms = arms
        self.cell = GRU(arms + 2, hidden)
        self.choice = nn.Linear(hidden, arms)
        self.value = nn.Linear(hidden, 1)
        nn.init.zeros_(self.choice.weight)

    def forward(self, x: Tree) -> Prediction:
        """Play trials."""
        return play(self, x)

    def states(self, seen: Tensor, start: Tensor | None = None) -> Tensor:
        """See `Pulls`."""
        return self.cell(seen, start)

    def heads(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """See `Pulls`."""
        return self.choice(states), self.value(states)[..., 0]


class EquivariantPulls(nn.Module):
    """The same GRU reads every arm: (pulled, won, lost, share of pulls left).

    An arm's logit is linear in its own state and the mean over arms, the value in the mean, so
    arms in another order get the same logits in that order.
    """

    held_constant = "the arms that it pulls"

    def __init__(self, arms: int, hidden: int = 16) -> None:
        super().__init__()
        self.arms = arms
        self.cell = GRU(4, hidden)
        self.choice = nn.Linear(2 * hidden, 1)
        self.value = nn.Linear(hidden, 1)
        nn.init.zeros_(self.choice.weight)

    def forward(self, x: Tree) -> Prediction:
        """Play trials."""
        return play(self, x)

    def states(self, seen: Tensor, start: Tensor | None = None) -> Tensor:
        """See `Pulls`; a state is ``(arms, hidden)``."""
        pulled, won, left = seen[..., : self.arms], seen[..., -2:-1], seen[..., -1:]
        inputs = torch.stack([pulled, pulled * won, pulled * (1 - won), left.expand_as(pulled)], -1)
        of_arms = inputs.transpose(1, 2).flatten(0, 1)  # every arm is a sequence
        states: Tensor = self.cell(of_arms, None if start is None else start.flatten(0, 1))
        return states.view(len(seen), self.arms, *states.shape[1:]).transpose(1, 2)

    def heads(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """See `Pulls`."""
        mean = states.mean(-2)
        both = torch.cat([states, mean[..., None, :].expand_as(states)], -1)
        return self.choice(both)[..., 0], self.value(mean)[..., 0]


def play(network: Pulls, x: Tree) -> Prediction:
    """Play trials of x["noise"].shape[1] pulls; actions are drawn, or greedy where x says so."""
    state: Tensor | None = None

    def choose(seen: Tensor, uniform: Tensor) -> Tensor:
        nonlocal state
        states = network.states(seen[:, None], state)
        state = states[:, 0]
        logits = network.heads(states)[0][:, 0]
        return torch.where(x["greedy"] > 0, logits.argmax(-1), sampled_action(logits, uniform))

    environment = BernoulliBandits(x["noise"].shape[1], network.arms)
    with torch.no_grad():
        found = rollout(environment, choose, x, x["noise"], x["chance"])
    logits, value = network.heads(network.states(found.observations))
    log_probs = logits.log_softmax(-1)
    return {
        "log_prob": log_probs.gather(-1, found.actions[..., None])[..., 0],
        "value": value,
        "entropy": -(log_probs.exp() * log_probs).sum(-1),
        "rewards": found.rewards,
        "actions": found.actions,
    }
