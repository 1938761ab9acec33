"""Time that can be compared: contenders take turns (A B C, C A B), and medians count.

Every turn has a new random order, because a contender affects the next one: after a contender that
waits for another process the processor has slept, and after one that fills gigabytes the caches are
cold.

Ratios are of processor time: on a shared machine, wall time also measures other programs. The speed
of the processor itself drifts with the load, so its peak, a large matrix product, takes its turn
among the contenders.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.engine.jax_peer import JaxRound
from benchmarks.engine.rounds import Seconds

_SIDE = 1024
_PRODUCTS = 2


def interleaved(
    contenders: Mapping[str, Callable[[], Any]],
    seconds: float,
    fewest: int = 7,
    most: int = 40,
) -> tuple[dict[str, Seconds], int]:
    """Time contenders by turns; each must have run once before.

    Args:
        contenders: What to time.
        seconds: Wall time after which no further turn begins.
        fewest: Turns that are taken in any case.
        most: Turns after which it ends in any case.

    Returns:
        The medians, and the number of turns.
    """
    taken: dict[str, list[Seconds]] = {name: [] for name in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    end = time.perf_counter() + seconds
    turns = 0
    while turns < fewest or (turns < most and time.perf_counter() < end):
        shuffle(order)
        for name in order:
            taken[name].append(_timed(contenders[name]))
        turns += 1
    return {name: _medians(values) for name, values in taken.items()}, turns


class MatrixProduct:
    """The processor's peak in float32: the product of two matrices of 1024 x 1024, twice."""

    flops = _PRODUCTS * 2 * _SIDE**3

    def __init__(self) -> None:
        self._left, self._right = torch.randn(2, _SIDE, _SIDE).unbind()
        self._result = torch.empty(_SIDE, _SIDE)

    def __call__(self) -> None:
        """Multiply."""
        for _ in range(_PRODUCTS):
            torch.mm(self._left, self._right, out=self._result)


def _timed(contender: Callable[[], Any]) -> Seconds:
    if isinstance(contender, JaxRound):  # works in another process, whose clock counts
        return contender.seconds()
    processor, wall = time.process_time(), time.perf_counter()
    contender()
    return Seconds(time.process_time() - processor, time.perf_counter() - wall)


def _medians(values: list[Seconds]) -> Seconds:
    return Seconds(*(statistics.median(column) for column in zip(*values, strict=True)))
