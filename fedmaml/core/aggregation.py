"""Weighted sums that do not depend on order or grouping, to the last bit.

Floating-point addition is not associative, so a mean over clients changes with the order of
arrival and with which node summed which clients. Here each number x is cut, before any addition,
into three limbs on fixed grids of spacing 2^5, 2^-27 and 2^-59,

    x = limb_0 + limb_1 + limb_2 + rest,    |rest| <= 2^-60,

each limb an integer multiple of its grid below 2^31 multiples. float64 holds integers up to 2^53
exactly, so up to 2^21 limbs can be added without any rounding, in any order and any grouping. The
cut is deterministic for each number by itself. It is the pre-rounding of Demmel and Nguyen
(Fast reproducible floating-point summation, ARITH 2013) with a grid fixed in advance, so that
no party needs to know the largest number of another.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedmaml import native

SPACINGS = (2.0**5, 2.0**-27, 2.0**-59)
LIMIT = 2.0**35
"""Numbers must be smaller than this in magnitude."""
MAX_TERMS = 2**21
_BLOCK_ENTRIES = 2**16  # half a megabyte of float64: stays in cache, and changes no bit


@dataclass(frozen=True)
class ExactSum:
    """A weighted sum in three limbs.

    Attributes:
        limbs: float64, shape ``(3, entries)``.
        weight: Sum of the weights, exact while they are integers below 2^53 in sum.
        terms: How many vectors were added.
    """

    limbs: Tensor
    weight: float
    terms: int

    def __add__(self, other: "ExactSum") -> "ExactSum":
        """Add two sums, exactly."""
        if self.terms + other.terms > MAX_TERMS:
            raise OverflowError(
                f"a sum over {self.terms + other.terms} clients is past the {MAX_TERMS} that stay "
                "exact; use a smaller cohort"
            )
        return ExactSum(
            self.limbs + other.limbs, self.weight + other.weight, self.terms + other.terms
        )

    def mean(self) -> Tensor:
        """Return sum / weight, float64, shape ``(entries,)``."""
        if self.limbs.device.type != "cpu" or native.missing():
            return (self.limbs[2] + self.limbs[1] + self.limbs[0]) / self.weight
        limbs, mean = self.limbs.contiguous(), torch.from_numpy(np.empty(self.limbs.shape[1]))
        native.run("mean_of_limbs", limbs, len(mean), limbs.stride(0), float(self.weight), mean)
        return mean


def empty_sum(entries: int) -> ExactSum:
    """Return the sum of nothing."""
    return ExactSum(_zeros((len(SPACINGS), entries), torch.device("cpu")), 0.0, 0)


def exact_sum(vectors: Tensor, weights: Tensor) -> ExactSum:
    """Add ``weights[i] * vectors[i]`` over i.

    Args:
        vectors: Shape ``(clients, entries)``, floating point; every product below `LIMIT`.
        weights: Shape ``(clients,)``, float64, whole numbers.
    """
    limbs = _zeros((len(SPACINGS), vectors.shape[1]), vectors.device)
    add_to_limbs(limbs, vectors, weights)
    return ExactSum(limbs, float(weights.sum()), len(vectors))


def add_to_limbs(limbs: Tensor, vectors: Tensor, weights: Tensor, largest: float = LIMIT) -> None:
    """Add the result of `exact_sum` to limbs, in place.

    Args:
        limbs: Shape ``(3, entries)``; may be some of a sum's columns.
        vectors: As in `exact_sum`.
        weights: As in `exact_sum`.
        largest: Upper bound of the magnitude of every product; small ones need fewer limbs.
    """
    if vectors.device.type != "cpu" or native.missing():
        _add_limbs(vectors, weights, limbs)
        return
    vectors, weights = vectors.contiguous(), weights.to(torch.float64).contiguous()
    native.run("exact_sum", vectors, weights, *vectors.shape, limbs.stride(0), largest, limbs)


def _zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return zeros in float64.

    On a CPU from numpy: memory that the system zeroes when it is first touched, in large pages. 240
    MB take 30 ms to fill so, and 145 if PyTorch makes them.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape))
    return torch.zeros(shape, dtype=torch.float64, device=device)


def _add_limbs(vectors: Tensor, weights: Tensor, limbs: Tensor) -> None:
    """Compute the same bits as fedmaml/native/exact_sum.cpp."""
    rows = max(1, _BLOCK_ENTRIES // max(vectors.shape[1], 1))
    for first in range(0, len(vectors), rows):
        block = slice(first, first + rows)
        rest = vectors[block].to(torch.float64) * weights[block, None]
        for limb_sum, spacing in zip(limbs, SPACINGS, strict=True):
            # Adding and subtracting 1.5 * 2^52 grid steps rounds to the grid.
            shift = 1.5 * 2.0**52 * spacing
            limb = (rest + shift).sub_(shift)
            limb_sum += limb.sum(0)
            rest -= limb


def in_range(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return for each client whether `exact_sum` accepts its update: finite and below `LIMIT`."""
    extremes = torch.maximum(vectors.amax(-1), -vectors.amin(-1))  # five times as fast as abs, amax
    largest = extremes.to(torch.float64) * weights
    return largest < LIMIT  # False for NaN
