"""Updates of clients, formed a few rows of a weight at a time, and their sum."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fedmaml import native
from fedmaml.computing.engines.base import Total
from fedmaml.core.aggregation import LIMIT, ExactSum, add_to_limbs, empty_sum
from fedmaml.core.params import Params

# Of all clients together; 30 ms a million parameters of 32 clients, with 2**18: 40.
_TILE_ENTRIES = 2**20


@dataclass(frozen=True)
class Chosen:
    """Some of the clients that are computed together.

    Attributes:
        among: Which ones, ``(clients,)`` of bool.
        weight: Theirs, float64.
        largest: Upper bound of the magnitudes in their weighted updates.
    """

    among: Tensor
    weight: Tensor
    largest: float

    def of(self, values: Tensor) -> Tensor:
        """Return their rows; no copy if they are all."""
        return values if len(self.weight) == len(self.among) else values[self.among]


@dataclass(frozen=True)
class Formed:
    """A parameter's updates as full tensors.

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

    def add_to(self, limbs: Tensor, some: Chosen) -> None:
        """Add the updates of some clients to the limbs of their sum, ``(3, entries)``."""
        add_to_limbs(limbs, some.of(self.values.flatten(1)), some.weight, some.largest)


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
        of_left, of_right = (
            part.square().sum(1).amax(1).sqrt() for part in (self.left, self.right)
        )  # a fifth of the time of torch.linalg.vector_norm
        bound = self.scale * of_left * of_right
        return bound if self.base is None else bound + self.base.abs().max()

    def tiles(self) -> Iterator[Tensor]:
        """Yield consecutive entries of all clients, ``(clients, entries)``."""
        clients, _, inputs = self.right.shape
        rows = max(1, _TILE_ENTRIES // (clients * inputs))
        for first in range(0, self.left.shape[2], rows):
            left = self.left[:, :, first : first + rows]
            base = None if self.base is None else self.base[first : first + rows]
            if native.missing():
                tile = torch.bmm(left.mT, self.right).mul_(self.scale)
                yield (tile if base is None else tile.add_(base)).flatten(1)
            else:
                tile = self.right.new_empty(clients, left.shape[2] * inputs)
                native.run("form_low_rank", *self._arguments(left, self.right, base), tile)
                yield tile

    def add_to(self, limbs: Tensor, some: Chosen) -> None:
        """Add the updates of some clients to the limbs of their sum, ``(3, entries)``.

        The kernel computes the same numbers as that of `tiles`, and stores none of them.
        """
        if native.missing():
            first = 0
            for tile in self.tiles():
                last = first + tile.shape[1]
                add_to_limbs(limbs[:, first:last], some.of(tile), some.weight, some.largest)
                first = last
            return
        factors = self._arguments(some.of(self.left), some.of(self.right), self.base)
        native.run("add_low_rank", *factors, some.weight, limbs.stride(0), some.largest, limbs)

    def _arguments(
        self, left: Tensor, right: Tensor, base: Tensor | None
    ) -> tuple[Tensor | int | float, ...]:
        """Return the factors of clients and rows in the kernels' terms."""
        left, right = left.contiguous(), right.contiguous()
        given = left if base is None else base.contiguous()
        sizes = (*left.shape, right.shape[2])
        return left, right, given, int(base is not None), float(self.scale), *sizes


Piece = Formed | Product


def squared_norm_of_rest(piece: Piece, theta: Tensor) -> Tensor:
    """Return ||theta - update||^2 for each client."""
    rest, first, total = theta.flatten(), 0, torch.zeros(())
    for tile in piece.tiles():
        total = total + (rest[first : first + tile.shape[1]] - tile).square().sum(1)
        first += tile.shape[1]
    return total


@dataclass(frozen=True)
class Sent:
    """The updates of some clients.

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

    A client whose update may hold a number out of range is left out before anything is added. The
    test is an upper bound: the caller computes such clients once more, in another way, to be sure.
    """

    def __init__(self, theta: Params) -> None:
        ends = list(accumulate(value.numel() for value in theta.values()))
        places = map(slice, [0, *ends], ends)
        self._places = dict(zip(theta, places, strict=False))
        self._limbs = empty_sum(ends[-1]).limbs
        self._parts: list[Sent] = []
        self._clients: list[int] = []
        self._unsound: list[int] = []

    def add(self, clients: Sequence[int], sent: Sent) -> None:
        """Add the updates of some clients."""
        bounds = torch.stack([piece.bound() for piece in sent.pieces]).amax(0)
        bounds = 2 * bounds.to(torch.float64) * sent.weight  # twice, for what rounding adds
        sound = bounds < LIMIT  # False for NaN
        weight = sent.weight[sound]
        if len(weight):
            some = Chosen(sound, weight, float(bounds[sound].amax()))
            for piece in sent.pieces:
                piece.add_to(self._limbs[:, self._places[piece.name]], some)
        metrics = {name: values[sound] for name, values in sent.metrics.items()}
        self._parts.append(Sent([], weight, metrics))
        for client, usable in zip(clients, sound.tolist(), strict=True):
            (self._clients if usable else self._unsound).append(client)

    def result(self) -> Total:
        """Return the sum of all added updates."""
        weight = torch.cat([part.weight for part in self._parts])
        metrics = {
            name: torch.cat([part.metrics[name] for part in self._parts])
            for name in self._parts[0].metrics
        }
        total = ExactSum(self._limbs, float(weight.sum()), len(weight))
        return Total(tuple(self._clients), weight, metrics, {"theta": total}, tuple(self._unsound))
