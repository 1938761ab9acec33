"""Strings spelled token by token, by what each token was worth: the forward pass buys strings.

    choose         token a with probability softmax(Q(s, .) / tau) over the legal ones
    loss           mean_t (Q(s_t, a_t) - reward of the string)^2, t up to its end

Q learns the mean reward of the strings at hand that began so: Monte Carlo control, off-policy where
they were bought by earlier policies. (One-step targets need four times the steps, since the reward
comes with the last token.) Sutton, Barto. Reinforcement Learning. 2018, section 5.4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmaml.core.networks import MLP
from fedmaml.core.trees import Tree
from fedmaml.simulations.environments.acting import Prediction
from fedmaml.simulations.environments.bandits import sampled_action
from fedmaml.simulations.environments.base import Outcome, World, rollout
from fedmaml.simulations.systems import strings

_TOKENS = len(strings.TOKENS)
_MIN_REWARD = 0.01  # reward; rows of a replay that are not written yet have 0


@dataclass(frozen=True)
class Spelling:
    """The world: ``target``, ``(episodes, 2)``.

    The state is (count of each token, last token, state of the grammar).
    """

    horizon: int = strings.LENGTH
    chances: int = 0

    def begin(self, world: World) -> Tensor:
        """Return the empty string; its last token is none."""
        state = torch.zeros_like(world["target"][:, :1]).repeat(1, _TOKENS + 2)
        return state + (torch.arange(_TOKENS + 2, device=state.device) == _TOKENS) * _TOKENS

    def observe(self, world: World, state: Tensor, step: int) -> Tensor:
        """Return what `seen` does."""
        del world
        last, grammar = state[:, _TOKENS:].long().unbind(1)
        return seen(state[:, :_TOKENS], last, grammar, step)

    def step(self, world: World, state: Tensor, action: Tensor, chance: Tensor) -> Outcome:
        """Append the token ``action``, int64 ``(episodes,)``."""
        del chance
        counts = state[:, :_TOKENS] + strings.one_hot(action).to(state.dtype)
        table = strings.grammar().to(state.device)
        grammar = table[state[:, -1].long(), action]
        goes_on = (grammar != strings.ENDED) & (counts.sum(1) < self.horizon)
        worth = strings.reward(counts, world["target"]) * ~goes_on
        rest = action.to(state.dtype), grammar.to(state.dtype)
        return Outcome(torch.cat([counts, torch.stack(rest, 1)], 1), worth, goes_on)


class Speller(nn.Module):
    """Q of the legal tokens: a perceptron with two hidden layers.

    Inputs are ``target`` and ``noise`` ``(strings, 8)``, uniform; or strings that were bought
    before, as ``played``: eight tokens and the reward, and the target if the network gets it.

    Args:
        hidden: Width of the hidden layers.
        temperature: tau.
        with_target: Whether the network gets the target, too.
    """

    held_constant = "the strings that it buys"
    context = _TOKENS + 1
    latent_enters: tuple[str, ...] = ("q.body.0.bias",)
    latent_held: tuple[str, ...] = ()

    def __init__(self, hidden: int, temperature: float, with_target: bool = False) -> None:
        super().__init__()
        self.temperature, self.with_target = temperature, with_target
        self.played = strings.LENGTH + 1 + 2 * with_target
        self.q = MLP((2 * _TOKENS + 2 + 2 * with_target, hidden, hidden, _TOKENS), head_gain=0.1)

    def forward(self, x: Tree) -> Prediction:
        """Buy strings, or go over some."""
        if "played" in x:
            return self._recalled(x["played"])
        target = x["target"]
        with torch.no_grad():
            found = rollout(
                Spelling(),
                lambda now, noise: sampled_action(
                    self._logits(now, target) / self.temperature, noise
                ),
                x, x["noise"], x["noise"],
            )  # fmt: skip
        tokens, rewards = found.actions.to(target.dtype), found.rewards.sum(1, keepdim=True)
        rows = torch.cat([tokens, rewards, *([target] if self.with_target else [])], 1)
        return self._predicted(found.observations, found.actions, found.alive, rows)

    def context_of(self, rows: Tensor) -> Tensor:
        """Return counts / 2 and how far a string is from the target, 1 / reward - 1."""
        counts = strings.composition(rows[:, : strings.LENGTH].long()).to(rows.dtype)
        away = 1 / rows[:, strings.LENGTH, None].clamp(min=_MIN_REWARD) - 1
        return torch.cat([counts / 2, away], 1)[:, None]

    def _recalled(self, rows: Tensor) -> Prediction:
        tokens = rows[:, : strings.LENGTH].long()
        marks = strings.one_hot(tokens).to(rows.dtype)
        grammar, place = strings.states(tokens), torch.arange(strings.LENGTH, device=rows.device)
        last = torch.cat([torch.full_like(tokens[:, :1], _TOKENS), tokens[:, :-1]], 1)
        observations = seen(marks.cumsum(1) - marks, last, grammar, place)
        alive = (grammar != strings.ENDED).to(rows.dtype)
        return self._predicted(observations, tokens, alive, rows)

    def _predicted(
        self, observations: Tensor, tokens: Tensor, alive: Tensor, rows: Tensor
    ) -> Prediction:
        target = rows[:, None, strings.LENGTH + 1 :].expand(-1, strings.LENGTH, -1)
        logits = self._logits(observations, target)
        return {
            "q": logits.gather(-1, tokens[..., None])[..., 0],
            "alive": alive, "rewards": rows[:, strings.LENGTH], "played": rows,
        }  # fmt: skip

    def _logits(self, seen: Tensor, target: Tensor) -> Tensor:
        """Return Q of each token, and -1e9 of those that are not legal."""
        inputs = seen[..., :-_TOKENS]
        if self.with_target:
            inputs = torch.cat([inputs, target / target.new_tensor([2.0, 60.0])], -1)
        q = self.q(inputs.flatten(0, -2)).view(*seen.shape[:-1], _TOKENS)
        return torch.where(seen[..., -_TOKENS:] > 0, q, -1e9)


def seen(counts: Tensor, last: Tensor, grammar: Tensor, place: Tensor | int) -> Tensor:
    """Return counts / 8, the last token (one-hot, or none), place / 8; which tokens are legal.

    Args:
        counts: Of the tokens so far, ``(..., tokens)``.
        last: Token, int64 ``(...)``.
        grammar: State of the grammar, likewise.
        place: Tokens so far, of all or of each.
    """
    tokens = torch.arange(_TOKENS + 1, device=counts.device)
    at = (torch.as_tensor(place, device=counts.device) / strings.LENGTH).to(counts.dtype)
    parts = (
        counts / strings.LENGTH, last[..., None] == tokens, at.expand(last.shape)[..., None],
        strings.legal(grammar, place),
    )  # fmt: skip
    return torch.cat([part.to(counts.dtype) for part in parts], -1)


def missed_reward(prediction: Prediction, y: Tensor) -> Tensor:
    """Return the loss of each string: a mean over its places."""
    del y
    away = prediction["q"] - prediction["rewards"][:, None]
    return (away.square() * prediction["alive"]).mean(-1)
