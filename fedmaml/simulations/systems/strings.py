"""Strings that a grammar allows, and how near their composition is to a target. Made up.

Tokens are C N O S F, = (the next atom is bound twice) and . (the end), at most eight of them:

    the first is an atom;  = follows a C, or an N that is not bound twice before, never last
    after = comes C N O or S;  the string ends with =O, =S, with an F that is not first, or with .

Every token adds to two properties, as groups of atoms do in the simplest models of molecules; the
reward is 1 where a composition has those of the target, and falls with the distance:

    1 / (1 + (|logp - logp*| / .3 + |mass - mass*| / 8) / 4)
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

TOKENS = "CNOSF=."
LENGTH = 8
END = TOKENS.index(".")
_TWICE = TOKENS.index("=")
_LOGP = (0.36, -1.0, -0.7, 0.6, 0.45, -0.25, 0.0)
_MASS = (14.0, 15.0, 16.0, 32.0, 19.0, -2.0, 0.0)
_UNIT = (0.3, 8.0)

START, CARBON, NITROGEN, ATOM, BOUND, ENDED = range(6)
"""States of the grammar: nothing yet; after C; after N bound once; after another atom; after =;
after the end."""


@cache
def grammar() -> Tensor:
    """Return the next state by (state, token), int64 ``(6, 7)``; -1 where a token is not legal."""
    after = torch.full((6, len(TOKENS)), -1)
    once = torch.tensor([CARBON, NITROGEN, ATOM, ATOM])
    for state in (START, CARBON, NITROGEN, ATOM):
        after[state, :4] = once
        after[state, 4] = ATOM if state == START else ENDED
        after[state, END] = ENDED
    after[START, END] = -1
    after[[CARBON, NITROGEN], _TWICE] = BOUND
    after[BOUND, :4] = torch.tensor([CARBON, ATOM, ENDED, ENDED])
    after[ENDED, END] = ENDED
    return after


def legal(state: Tensor, place: Tensor | int) -> Tensor:
    """Return which tokens may come at a place, bool ``(..., tokens)``.

    Args:
        state: Of the grammar, int64 ``(...)``.
        place: From 0; of all, or of each.
    """
    allowed = grammar().to(state.device)[state] >= 0
    late = torch.as_tensor(place, device=state.device) == LENGTH - 1
    twice = torch.arange(len(TOKENS), device=state.device) == _TWICE
    return allowed & ~(late[..., None] & twice)


def states(tokens: Tensor) -> Tensor:
    """Return the state of the grammar before each token, int64 ``(strings, 8)``."""
    state = torch.full_like(tokens[:, 0], START)
    before = []
    for token in tokens.unbind(1):
        before.append(state)
        state = grammar().to(tokens.device)[state, token]
    return torch.stack(before, 1)


def one_hot(tokens: Tensor) -> Tensor:
    """Return tokens as one-hot rows, float64 ``(..., tokens)``."""
    return (tokens[..., None] == torch.arange(len(TOKENS), device=tokens.device)).double()


def spelled(uniform: Tensor) -> Tensor:
    """Return random strings, int64 ``(strings, 8)``: each token is uniform among the legal ones.

    Args:
        uniform: In (0, 1), ``(strings, 8)``.
    """
    state = torch.zeros(len(uniform), dtype=torch.int64, device=uniform.device)
    tokens = []
    for place in range(LENGTH):
        allowed = legal(state, place)
        wanted = (uniform[:, place] * allowed.sum(1)).long()[:, None]
        token = (allowed.cumsum(1) <= wanted).sum(1)
        state = grammar().to(state.device)[state, token]
        tokens.append(token)
    return torch.stack(tokens, 1)


def is_legal(tokens: Tensor) -> Tensor:
    """Return which strings ``(strings, 8)`` the grammar allows, bool; all after an end is "."."""
    state = torch.zeros(len(tokens), dtype=torch.int64)
    whole = torch.ones(len(tokens), dtype=torch.bool)
    for place in range(LENGTH):
        token = tokens[:, place]
        whole &= legal(state, place).gather(1, token[:, None])[:, 0]
        state = torch.where(whole, grammar()[state, token], ENDED)
    return whole


def repaired(tokens: Sequence[int], otherwise: int) -> tuple[int, ...]:
    """Return the legal string that is left of some tokens: those that may not come are passed over.

    Args:
        tokens: In their order, any number.
        otherwise: The atom that is left if no token is.
    """
    state = START
    whole: list[int] = []
    table = grammar().tolist()
    for token in tokens:
        late = len(whole) == LENGTH - 1 and token == _TWICE
        if len(whole) < LENGTH and table[state][token] >= 0 and not late and token != END:
            whole.append(token)
            state = table[state][token]
    if state == BOUND:
        whole.pop()
    whole = whole or [otherwise]
    return (*whole, *[END] * (LENGTH - len(whole)))


def composition(tokens: Tensor) -> Tensor:
    """Return how often each token stands in strings, float64 ``(..., tokens)``."""
    return one_hot(tokens).sum(-2)


def properties(counts: Tensor) -> Tensor:
    """Return (logp, mass) of compositions, ``(..., 2)``; whole hundredths, so sums are exact."""
    hundredths = (100 * counts.new_tensor([_LOGP, _MASS])).round()
    return counts @ hundredths.T / 100


def reward(counts: Tensor, target: Tensor) -> Tensor:
    """Return the reward of compositions ``(..., tokens)`` for targets ``(..., 2)``."""
    away = (properties(counts) - target).abs() / counts.new_tensor(_UNIT)
    return 1 / (1 + away.sum(-1) / 4)


def text(tokens: Tensor) -> str:
    """Return one string as text, without what follows its end."""
    return "".join(TOKENS[token] for token in tokens.tolist()).rstrip(".")
