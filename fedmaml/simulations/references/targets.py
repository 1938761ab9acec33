"""Targets as numbers that can be averaged, and averages as outputs of a network."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_MIN_SHARE = 1e-6  # a probability of 0 or 1 has no finite logit


@dataclass(frozen=True)
class Targets:
    """What is predicted.

    Attributes:
        encode: Targets of examples -> numbers ``(examples, columns)``.
        decode: Averages of such numbers, ``(..., columns)``, -> a network's output.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def classes(count: int) -> Targets:
    """Return targets that are class indices; outputs are logits ``(examples, count)``."""
    return Targets(
        lambda y: F.one_hot(y.long(), count).double(),
        lambda share: share.clamp(min=_MIN_SHARE).log(),
    )


NUMBERS = Targets(lambda y: y.flatten(1) if y.ndim > 1 else y[:, None], lambda mean: mean)
"""Regression; outputs are ``(examples, columns)``."""

BINARY = Targets(
    lambda y: y.double()[:, None], lambda share: share.clamp(_MIN_SHARE, 1 - _MIN_SHARE).logit()
)
"""Labels 0 and 1; the output is one logit, ``(examples, 1)``."""


def like(values: Tensor, x: Tensor) -> Tensor:
    """Return outputs in the type of the inputs; in float32 if those are letters or other numbers.

    Args:
        values: Outputs for ``x``.
        x: Inputs.
    """
    return values.to(x.dtype if x.is_floating_point() else torch.float32)
