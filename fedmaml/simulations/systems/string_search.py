"""Searches for strings of a wanted composition, in batches, and what a client has bought by then.

All buy no string twice. At random; a genetic search whose children come of the best two by
inserting, deleting and replacing tokens, repaired by the grammar; a Gaussian process on
compositions, which buys the largest mean + deviation of 400 random strings.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch, Task, map_batch
from fedmaml.core.trees import Tree
from fedmaml.simulations.reference import Adapt
from fedmaml.simulations.references.gaussian_process import around_mean, gaussian
from fedmaml.simulations.systems import strings

String = tuple[int, ...]

Propose = Callable[[Sequence[String], Sequence[float], np.random.Generator, int], list[String]]
"""(strings bought, their rewards, generator, how many) -> further strings, all new."""

_PARENTS, _POOL, _TRIES = 2, 400, 50
_NOISE = 1e-4  # of the process; rewards have none


def at_random(
    known: Sequence[String], _rewards: Sequence[float], rng: np.random.Generator, count: int
) -> list[String]:
    """Return random legal strings."""
    return fresh(lambda: random_strings(rng, 4 * count), known, count)


def genetic(rate: float) -> Propose:
    """Return the genetic search.

    Args:
        rate: Probability that a token of a parent is changed.
    """

    def propose(
        known: Sequence[String], rewards: Sequence[float], rng: np.random.Generator, count: int
    ) -> list[String]:
        if not known:
            return at_random(known, rewards, rng, count)
        order = np.argsort(rewards, kind="stable")[::-1]
        parents = [known[row] for row in order[:_PARENTS]]

        def children() -> list[String]:
            return [_mutated(parents[rng.integers(len(parents))], rate, rng) for _ in range(count)]

        return fresh(children, known, count, lambda: random_strings(rng, 4 * count))

    return propose


def by_process(length: float) -> Propose:
    """Return the search by a Gaussian process.

    Args:
        length: Of its covariance, in tokens.
    """
    covariance = gaussian(0.05, length)

    def propose(
        known: Sequence[String], rewards: Sequence[float], rng: np.random.Generator, count: int
    ) -> list[String]:
        if not known:
            return at_random(known, rewards, rng, count)
        bought = set(known)
        pool = list(dict.fromkeys(s for s in random_strings(rng, _POOL) if s not in bought))
        trials = Batch(_counts(known), torch.tensor(rewards, dtype=torch.float64))
        mean, variance = around_mean(trials, covariance, _NOISE).posterior(trials, _counts(pool))
        chosen = (mean + variance.sqrt()).argsort(descending=True, stable=True)[:count]
        return [pool[row] for row in chosen.tolist()]

    return propose


def searching(propose: Propose, batch: int) -> Adapt:
    """Return the adaptation of a reference that searches.

    It buys the support in batches; its predictor buys the next one. Its luck is a function of the
    support's noise.

    Args:
        propose: The search.
        batch: Strings that are bought at a time.
    """

    def adapt(support: Batch) -> Predictor:
        known: list[String] = []
        rewards: list[float] = []

        def bought(x: Tree) -> Tensor:
            seed = [int(2**32 * float(x["noise"][0, 0])), len(known)]
            new = propose(known, rewards, np.random.default_rng(seed), len(x["noise"]))
            known.extend(new)
            found = strings.reward(_counts(new), x["target"].double())
            rewards.extend(found.tolist())
            return found

        for first in range(0, len(support.y), batch):
            bought({name: value[first : first + batch] for name, value in support.x.items()})
        before = len(known)

        def predict(x: Tree) -> dict[str, Tensor]:
            del known[before:], rewards[before:]  # asked twice, it answers twice the same
            return {"rewards": bought(x)}

        return predict

    return adapt


def random_strings(rng: np.random.Generator, count: int) -> list[String]:
    """Return legal strings, drawn token by token."""
    tokens = strings.spelled(torch.from_numpy(rng.random((count, strings.LENGTH))))
    return [tuple(row) for row in tokens.tolist()]


def fresh(
    make: Callable[[], list[String]],
    known: Sequence[String],
    count: int,
    otherwise: Callable[[], list[String]] | None = None,
) -> list[String]:
    """Return strings that are new and different; after many tries those of ``otherwise``."""
    taken = set(known)
    found: list[String] = []
    for trial in range(2 * _TRIES):
        for string in make() if trial < _TRIES or otherwise is None else otherwise():
            if string not in taken and len(found) < count:
                taken.add(string)
                found.append(string)
        if len(found) == count:
            break
    return found


def rewards_of_batches(adapt: Adapt, task: Task, batch: int) -> Tensor:
    """Return the rewards of all that one client buys, ``(batches, batch)``.

    The maximum over the first batches is the best so far, which a purchase of the same string does
    not raise.

    Args:
        adapt: Of a strategy or a reference; it is called with supports from nothing to all.
        task: Of the client, its query as long as a batch.
        batch: Strings that are bought at a time.
    """
    found = []
    for first in range(0, len(task.support.y) + 1, batch):
        known = map_batch(lambda value, end=first: value[:end], task.support)
        asked = map_batch(lambda value, end=first: value[end : end + batch], task.support)
        x = asked.x if len(asked.y) else task.query.x
        found.append(adapt(known)(x)["rewards"])
    return torch.stack(found)


def _mutated(parent: String, rate: float, rng: np.random.Generator) -> String:
    atoms = [token for token in parent if token != strings.END]
    child: list[int] = []
    for token in [*atoms, strings.END]:  # the last is where a token may be appended
        new, how = int(rng.integers(strings.END)), rng.integers(3) if rng.random() < rate else -1
        if how == 0 or (token == strings.END and how > 0):
            child.append(new)
        if token != strings.END and how != 1:
            child.append(new if how == 2 else token)
    return strings.repaired(child, int(rng.integers(5)))


def _counts(known: Sequence[String]) -> Tensor:
    return strings.composition(torch.tensor(known))
