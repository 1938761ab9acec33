"""Losses by name: (predictions, targets) -> one loss per example.

A `Problem` may use any function of this form. These are the ones that the hand-written engines
(``fedmaml.computing.engines``) recognise.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml.core.gradients import inside_transform

IGNORED = -100
"""The class of what is not labelled, as PyTorch has it."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return -log softmax(logits)[y]; logits ``(examples, classes)``, y class indices.

    Like PyTorch's, it is 0 where y is -100.
    """
    if not inside_transform():
        return F.cross_entropy(logits, y, reduction="none")
    # Under functorch PyTorch's own imports its compiler, a second; these are the same bits.
    ignored = y == IGNORED
    known = torch.where(ignored, 0, y)
    losses = -F.log_softmax(logits, -1).gather(-1, known[:, None])[:, 0]
    return torch.where(ignored, 0, losses)


def binary_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return -log of the probability of y; logits ``(examples, 1)``, y 0 or 1, ``(examples,)``."""
    return F.binary_cross_entropy_with_logits(logits[:, 0], y, reduction="none")


def squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the mean of (prediction - y)^2 over the outputs; both ``(examples, outputs)``."""
    return (prediction - y).square().mean(-1)


def half_squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return 1/2 (prediction - y)^2; predictions ``(examples, 1)``, y ``(examples,)``."""
    return 0.5 * (prediction[:, 0] - y).square()


CATALOGUE: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    cross_entropy,
    binary_cross_entropy,
    squared_error,
    half_squared_error,
)
