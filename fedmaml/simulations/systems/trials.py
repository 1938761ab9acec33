"""Trials chosen one after another: predict, choose a candidate, measure it, adapt again.

    regrets(scenario, clients, greedy(adapt), 6)                    by a model's predictions
    regrets(scenario, clients, expected_improvement(process), 6)    Bayesian optimisation

Jones, Schonlau, Welch. Efficient Global Optimization of Expensive Black-Box Functions. Journal of
Global Optimization 13, 1998 (expected improvement).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.tasks import Batch, task_at
from fedmaml.simulations.reference import Adapt
from fedmaml.simulations.references.gaussian_process import Process
from fedmaml.simulations.scenarios.synthesis import Synthesis
from fedmaml.simulations.systems.yields import NOISE

Policy = Callable[[Batch], Callable[[Tensor], Tensor]]
"""Trials so far -> candidates ``(rows, features)`` -> scores ``(rows,)``; the largest is tried."""


def regrets(scenario: Synthesis, clients: Sequence[int], policy: Policy, trials: int) -> Tensor:
    """Return the regret of materials, ``(clients, trials + 1)``: 1 - best yield tried / height.

    Yields without noise decide, so luck in measuring is no merit; the policy sees measured ones.

    Args:
        scenario: Makes the materials.
        clients: Test or validation clients; their first trials are their support.
        policy: Chooses every further trial.
        trials: How many are chosen.
    """
    (group,) = scenario.tasks("test", clients, 1, {})
    nature = scenario.materials(clients)
    key = seeding.key(scenario.seed, "synthesis", "chosen")
    noise = NOISE * seeding.normal(key, clients, trials)
    found = []
    for row in range(len(clients)):
        support, query = task_at(group.tasks, row)
        candidates, yields, height = query.x[:-1], query.y[:-1], query.y[-1]
        conditions = support.x / 3 + 0.5
        best = nature.yields(conditions.expand(len(clients), -1, -1))[row].max()
        line = [best]
        for trial in range(trials):
            chosen = int(policy(support)(candidates).argmax())
            measured = yields[chosen] + noise[row, trial]
            support = Batch(
                torch.cat([support.x, candidates[chosen][None]]),
                torch.cat([support.y, measured[None]]),
            )
            best = torch.maximum(best, yields[chosen])
            line.append(best)
        found.append(1 - torch.stack(line) / height)
    return torch.stack(found)


def greedy(adapt: Adapt) -> Policy:
    """Return the policy that tries what a model predicts to be best, adapted to all trials."""
    return lambda support: lambda x: adapt(support)(x)[:, 0]


def at_random(key: int) -> Policy:
    """Return the policy that tries candidates at random."""

    def policy(support: Batch) -> Callable[[Tensor], Tensor]:
        seen = int(1e6 * support.y.double().sum().abs()) % 2**31  # another draw after each trial
        return lambda x: seeding.uniform(key, [seen], len(x))[0]

    return policy


def expected_improvement(process_of: Callable[[Batch], Process]) -> Policy:
    """Return Bayesian optimisation: E max(f(x) - best measured yield, 0) under a process.

    Args:
        process_of: Trials so far -> the process.
    """

    def policy(support: Batch) -> Callable[[Tensor], Tensor]:
        process, best = process_of(support), support.y.double().max()

        def score(x: Tensor) -> Tensor:
            mean, variance = process.posterior(support, x)
            spread = variance.sqrt().clamp(min=1e-9)
            z = (mean - best) / spread
            density = torch.exp(-z.square() / 2) / (2 * torch.pi) ** 0.5
            return (mean - best) * torch.special.ndtr(z) + spread * density

        return score

    return policy
