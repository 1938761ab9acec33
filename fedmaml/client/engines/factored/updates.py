"""What clients send, formed a few rows of a weight at a time, and its sum."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fedmaml.client.engines.base import Total
from fedmaml.core.aggregation import LIMIT, ExactSum, add_to_limbs, empty_sum
from fedmaml.core.params import Params

# Of all clients together; 30 ms a million parameters of 32 clients, with 2**18: 40.
_TILE_ENTRIES = 2**20


@dataclass(frozen=True)
class Formed:
    """A parameter's updates as they are.

    Attributes:
        name: Of the parameter.
        values: ``(clients, *shape)``.
    """

    name: str
    values: Tensor

    def bound(self) -> Tensor:
        """Return each client's largest magnitude, ``(clients,)``."""
        return self.values.flatten(1).abs().amax(1)

    def tiles(self) -> Iterator[Tensor]:
        """Yield consecutive entries of all clients, ``(clients, entries)``."""
        yield self.values.flatten(1)

    def weighed(self, clients: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield consecutive entries of the terms of the weighted sum of some clients.

        Args:
            clients: Which ones, ``(clients,)`` of bool.
            weight: Theirs, float64.

        Yields:
            Terms ``(terms, entries)`` and their weights.
        """
        yield _those(clients, self.values.flatten(1)), weight


@dataclass(frozen=True)
class Product:
    """The updates ``scale * left' right + base`` of a weight, formed a few rows at a time.

    Attributes:
        name: Of the parameter.
        left: ``(clients, rank, outputs)``.
        right: ``(clients, rank, inputs)``.
        scale: Of the product.
        base: ``(outputs, inputs)``, the same for all clients; None for zero.
    """

    name: str
    left: Tensor
    right: Tensor
    scale: float = 1.0
    base: Tensor | None = None

    def bound(self) -> Tensor:
        """Return a bound of each client's largest magnitude, ``(clients,)``; NaN if one is.

        That of Cauchy and Schwarz: an entry is the product of two vectors of ``rank`` numbers.
        """
        norms = (torch.linalg.vector_norm(part, dim=1) for part in (self.left, self.right))
        of_left, of_right = (norm.amax(1) for norm in norms)
        bound = self.scale * of_left * of_right
        return bound if self.base is None else bound + self.base.abs().max()

    def tiles(self) -> Iterator[Tensor]:
        """Yield consecutive entries of all clients, ``(clients, entries)``."""
        clients, _, inputs = self.right.shape
        rows = max(1, _TILE_ENTRIES // (clients * inputs))
        for first in range(0, self.left.shape[2], rows):
            tile = torch.bmm(self.left[:, :, first : first + rows].mT, self.right)
            if self.scale != 1:
                tile *= self.scale
            if self.base is not None:
                tile += self.base[first : first + rows]
            yield tile.flatten(1)

    def weighed(self, clients: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield consecutive entries of the weighted sum of some clients: one term, of weight 1.

        The examples of all clients are the inner axis of one product: adding clients up so costs
        no more than forming the updates of each, and only their sum has to be cut into limbs.

        Args:
            clients: Which ones, ``(clients,)`` of bool.
            weight: Theirs, float64.

        Yields:
            Terms ``(1, entries)`` and their weights.
        """
        share = (self.scale * weight).to(self.left.dtype)
        left = (_those(clients, self.left) * share[:, None, None]).flatten(0, 1)
        right = _those(clients, self.right).flatten(0, 1)
        one, everyone, first = weight.new_ones(1), float(weight.sum()), 0
        rows = max(1, _TILE_ENTRIES // right.shape[1])
        buffer = right.new_empty(min(rows, left.shape[1]), right.shape[1])
        for some in torch.split(left, rows, 1):
            tile = torch.mm(some.mT, right, out=buffer[: some.shape[1]])
            if self.base is not None:
                tile.add_(self.base[first : first + len(tile)], alpha=everyone)
            first += len(tile)
            yield tile.view(1, -1), one


Piece = Formed | Product


def _those(clients: Tensor, values: Tensor) -> Tensor:
    """Return the rows of some clients; no copy if they are all."""
    return values if bool(clients.all()) else values[clients]


def squared_norm_of_rest(piece: Piece, theta: Tensor) -> Tensor:
    """Return ||theta - update||^2 for each client."""
    rest, first, total = theta.flatten(), 0, torch.zeros(())
    for tile in piece.tiles():
        total = total + (rest[first : first + tile.shape[1]] - tile).square().sum(1)
        first += tile.shape[1]
    return total


@dataclass(frozen=True)
class Sent:
    """What some clients send.

    Attributes:
        pieces: Updates, not all of them formed, in the order of theta.
        weight: float64, ``(clients,)``.
        metrics: name -> ``(clients,)``.
    """

    pieces: list[Piece]
    weight: Tensor
    metrics: dict[str, Tensor]


class Sum:
    """The weighted sum of updates, to which they are added a few rows of a weight at a time.

    A client whose update may have a number out of range is left out before any is added. It is
    judged by a bound: the caller computes such clients once more, in another way, and finds out.
    """

    def __init__(self, theta: Params, *, pooled: bool) -> None:
        sizes = [value.numel() for value in theta.values()]
        self._start = dict(zip(theta, accumulate(sizes, initial=0), strict=False))
        self._pooled = pooled
        self._limbs = empty_sum(sum(sizes)).limbs
        self._parts: list[Sent] = []
        self._clients: list[int] = []
        self._unsound: list[int] = []

    def add(self, clients: Sequence[int], sent: Sent) -> None:
        """Take in some clients."""
        bounds = torch.stack([piece.bound() for piece in sent.pieces]).amax(0)
        bounds = 2 * bounds.to(torch.float64) * sent.weight  # twice, for what rounding adds
        terms = len(clients) if self._pooled else 1  # of one number that must be in range
        sound = bounds * terms < LIMIT  # False for NaN
        weight = sent.weight[sound]
        if len(weight):
            largest = float(bounds[sound].amax()) * terms
            for piece in sent.pieces:
                first = self._start[piece.name]
                for numbers, weights in self._terms(piece, sound, weight):
                    last = first + numbers.shape[1]
                    add_to_limbs(self._limbs[:, first:last], numbers, weights, largest)
                    first = last
        metrics = {name: values[sound] for name, values in sent.metrics.items()}
        self._parts.append(Sent([], weight, metrics))
        for client, usable in zip(clients, sound.tolist(), strict=True):
            (self._clients if usable else self._unsound).append(client)

    def _terms(
        self, piece: Piece, sound: Tensor, weight: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield consecutive entries of the terms of the sum, and their weights."""
        if self._pooled:
            yield from piece.weighed(sound, weight)
        else:
            for tile in piece.tiles():
                yield _those(sound, tile), weight

    def result(self) -> Total:
        """Return the sum of all that were taken in."""
        weight = torch.cat([part.weight for part in self._parts])
        metrics = {
            name: torch.cat([part.metrics[name] for part in self._parts])
            for name in self._parts[0].metrics
        }
        total = ExactSum(self._limbs, float(weight.sum()), len(weight))
        return Total(tuple(self._clients), weight, metrics, {"theta": total}, tuple(self._unsound))
