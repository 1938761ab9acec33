"""Rules for Bernoulli bandits that nobody trained, from counts of wins and losses of each arm.

Thompson. On the Likelihood that One Unknown Probability Exceeds Another. Biometrika 25, 1933; UCB1:
Auer, Cesa-Bianchi, Fischer. Finite-time Analysis of the Multiarmed Bandit Problem. Machine
Learning 47, 2002; the index: see `bandits`.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.simulations.environments.bandits import BernoulliBandits, index_table
from fedmaml.simulations.environments.base import Episodes, World, rollout

Scores = Callable[[Tensor, Tensor, int], Tensor]
"""(wins, losses, pulls left) -> scores ``(trials, arms)``, of which the largest is pulled."""


def by_index(pulls: int) -> Scores:
    """Return the rule that pulls the arm with the largest index for the pulls that are left."""
    table = index_table(pulls)
    return lambda wins, losses, left: table[left, wins.long(), losses.long()]


def by_mean(wins: Tensor, losses: Tensor, left: int) -> Tensor:
    """Score arms by their posterior mean."""
    del left
    return (wins + 1) / (wins + losses + 2)


def by_upper_bound(wins: Tensor, losses: Tensor, left: int) -> Tensor:
    """Score arms as UCB1 does: mean + sqrt(2 log t / pulls); arms not pulled come first."""
    del left
    pulls = wins + losses
    total = pulls.sum(-1, keepdim=True).clamp(min=1)
    known = wins / pulls.clamp(min=1) + (2 * total.log() / pulls.clamp(min=1)).sqrt()
    return torch.where(pulls == 0, torch.inf, known)


def by_sampling(seed: int) -> Scores:
    """Return Thompson's rule: one draw from each arm's posterior."""
    rng = np.random.default_rng(seeding.key(seed, "thompson"))

    def scores(wins: Tensor, losses: Tensor, left: int) -> Tensor:
        del left
        return torch.from_numpy(rng.beta(wins.numpy() + 1, losses.numpy() + 1))

    return scores


def pull(scores: Scores, world: World, noise: Tensor, chance: Tensor) -> Episodes:
    """Play trials by a rule; of equal scores an arm is drawn with the noise.

    Args:
        scores: The rule.
        world: With ``pays``, ``(trials, arms)``.
        noise: Uniform, ``(trials, pulls)``.
        chance: Of the arms, ``(trials, pulls, 1)``.
    """
    trials, arms = world["pays"].shape
    pulls = noise.shape[1]
    counts = torch.zeros(2, trials, arms, dtype=torch.float64)
    left = pulls

    def choose(seen: Tensor, uniform: Tensor) -> Tensor:
        nonlocal counts, left
        pulled, won = seen[:, :arms].double(), seen[:, arms, None].double()
        counts = counts + torch.stack([pulled * won, pulled * (1 - won)])
        values = scores(counts[0], counts[1], left)
        left -= 1
        best = (values == values.amax(-1, keepdim=True)).double()
        order = (best.cumsum(-1) / best.sum(-1, keepdim=True)) > uniform[:, None].double()
        return order.int().argmax(-1)

    return rollout(BernoulliBandits(pulls, arms), choose, world, noise, chance)
