"""Ratings of items by users: who trains, which items are left, their biases and factors."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.linear import with_ones
from fedmaml.simulations.dealing import deal
from fedmaml.simulations.scenario import Split

_FEWEST = 5  # ratings of an item by training users
_SHRUNK = 5.0  # ratings of 0 that an item's bias has beside its own

Rated = tuple[Tensor, Tensor]
"""Items, int64 ``(ratings,)``, and values, float64, of one user in the order of time."""


class People(NamedTuple):
    """Users with enough ratings of the items that are left.

    Attributes:
        clients: Client numbers of each split.
        rated: Each client's ratings; items are numbered anew.
        items: How many items are left.
        left_out: Users with too few ratings, by name, and that this is the reason.
    """

    clients: dict[Split, range]
    rated: list[Rated]
    items: int
    left_out: dict[str, str]

    def of_training(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return user, item and value less the mean of every training rating."""
        chosen = [self.rated[client] for client in self.clients["train"]]
        counts = torch.tensor([len(values) for _, values in chosen])
        values = torch.cat([own for _, own in chosen])
        users = torch.arange(len(chosen)).repeat_interleave(counts)
        return users, torch.cat([items for items, _ in chosen]), values - values.mean()


def dealt(everyone: Mapping[str, Rated], fewest: int) -> People:
    """Deal users in their order to the splits, and leave out what has too few ratings.

    Items are left that five training users rated; users, that rated ``fewest`` of these.
    """
    splits, names = deal(len(everyone)), list(everyone)
    rated = torch.cat([everyone[names[place]][0] for place in splits["train"]])
    count = max(int(own.max()) + 1 for own, _ in everyone.values())
    left = rated.bincount(minlength=count) >= _FEWEST
    number = left.cumsum(0) - 1
    people = People({}, [], int(left.sum()), {})
    for split, places in splits.items():
        first = len(people.rated)
        for name in (names[place] for place in places):
            items, values = everyone[name]
            kept = left[items]
            if int(kept.sum()) >= fewest:
                people.rated.append((number[items[kept]], values[kept]))
            else:
                people.left_out[name] = f"fewer than {fewest} ratings of known films"
        people.clients[split] = range(first, len(people.rated))
    return people


def biases(items: Tensor, values: Tensor) -> Tensor:
    """Return sum of values / (n + 5) of each item, float64 ``(items,)``."""
    return items.bincount(values) / (items.bincount() + _SHRUNK)


def pairs_in_order(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the fraction of pairs of unequal stars that are predicted in their order."""
    score = prediction.reshape(-1)
    higher = y[:, None] > y[None]
    ahead = score[:, None] - score[None]
    won = (ahead > 0).to(score.dtype) + 0.5 * (ahead == 0).to(score.dtype)
    return (won * higher).sum() / higher.sum()


def factorised(
    users: Tensor, items: Tensor, values: Tensor, width: int, weight: float, sweeps: int = 10
) -> Tensor:
    """Return factors v_i and bias b_i of every item, float64 ``(items, width + 1)``.

        values = b_i + b_u + u'v_i + noise,    weight |.|^2 on every (u, b_u) and (v_i, b_i)

    Users and items are solved for in turn. A user's own (u, b_u) needs the user's ratings alone,
    and an item's normal equations are sums over users.

    Args:
        users: Number of each rating's user, ``(ratings,)``.
        items: Number of each rating's item.
        values: Ratings less their mean, float64.
        width: Entries of v_i.
        weight: Of the penalty, > 0.
        sweeps: How often users and items are solved for.
    """
    count = int(items.max()) + 1
    start = 0.1 * seeding.normal(seeding.key(0, "factorised"), range(count), width)
    of_items = torch.cat([start, start.new_zeros(count, 1)], 1)
    for _ in range(sweeps):
        of_users = _solved(of_items, items, users, values, weight)
        of_items = _solved(of_users, users, items, values, weight)
    return of_items


def _solved(known: Tensor, of: Tensor, wanted: Tensor, values: Tensor, weight: float) -> Tensor:
    """Return the factors and biases of one side, given the other's."""
    inputs = with_ones(known[of, :-1])
    rest = values - known[of, -1]
    width, count = inputs.shape[1], int(wanted.max()) + 1
    gram = inputs.new_zeros(count, width, width)
    gram.index_add_(0, wanted, inputs[:, :, None] * inputs[:, None])
    moment = inputs.new_zeros(count, width).index_add_(0, wanted, inputs * rest[:, None])
    pull = weight * torch.eye(width, dtype=inputs.dtype)
    return torch.linalg.solve(gram + pull, moment)
