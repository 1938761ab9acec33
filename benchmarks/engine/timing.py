"""Time that can be compared: contenders take turns (A B C A B C), and medians count.

Processor time is what ratios are made of: on a machine that others use, too, wall time measures
them as well. The speed of the processor itself drifts with the load, so its peak, a large matrix
product, takes its turn among the contenders.
"""

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
    fewest: int = 3,
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
    end = time.perf_counter() + seconds
    turns = 0
    while turns < fewest or (turns < most and time.perf_counter() < end):
        for name, contender in contenders.items():
            taken[name].append(_timed(contender))
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
