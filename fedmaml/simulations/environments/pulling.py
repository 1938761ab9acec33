"""Recurrent networks that pull arms: the forward pass plays trials from an empty state."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedmaml.core.networks import GRU
from fedmaml.core.trees import Tree
from fedmaml.simulations.environments.acting import Prediction
from fedmaml.simulations.environments.bandits import BernoulliBandits, sampled_action
from fedmaml.simulations.environments.base import rollout

Read = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]
"""(observation, state or None) -> logits ``(trials, arms)``, value ``(trials,)``, next state."""


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
        return play(self.read, self.arms, x)

    def read(self, seen: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """See `Read`."""
        state = self.cell(seen[:, None], state)[:, 0]
        return self.choice(state), self.value(state)[:, 0], state


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
        return play(self.read, self.arms, x)

    def read(self, seen: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """See `Read`."""
        pulled, won, left = seen[:, : self.arms], seen[:, -2:-1], seen[:, -1:]
        inputs = torch.stack([pulled, pulled * won, pulled * (1 - won), left.expand_as(pulled)], -1)
        state = self.cell(inputs.flatten(0, 1)[:, None], state)[:, 0]
        of_arms = state.view(len(seen), self.arms, -1)
        mean = of_arms.mean(1)
        both = torch.cat([of_arms, mean[:, None].expand_as(of_arms)], -1)
        return self.choice(both)[..., 0], self.value(mean)[:, 0], state


def play(read: Read, arms: int, x: Tree) -> Prediction:
    """Play trials of x["noise"].shape[1] pulls; actions are drawn, or greedy where x says so."""
    state: Tensor | None = None
    columns: list[tuple[Tensor, Tensor, Tensor]] = []

    def choose(seen: Tensor, uniform: Tensor) -> Tensor:
        nonlocal state
        logits, value, state = read(seen, state)
        drawn = sampled_action(logits.detach(), uniform)
        action = torch.where(x["greedy"] > 0, logits.detach().argmax(-1), drawn)
        log_probs = logits.log_softmax(-1)
        of_action = log_probs.gather(-1, action[:, None])[:, 0]
        columns.append((of_action, value, -(log_probs.exp() * log_probs).sum(-1)))
        return action

    environment = BernoulliBandits(x["noise"].shape[1], arms)
    found = rollout(environment, choose, x, x["noise"], x["chance"])
    log_prob, value, entropy = (torch.stack(column, 1) for column in zip(*columns, strict=True))
    return {
        "log_prob": log_prob, "value": value, "entropy": entropy, "rewards": found.rewards,
        "actions": found.actions,
    }  # fmt: skip
