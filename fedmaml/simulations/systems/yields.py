"""Made-up yields of syntheses over their conditions."""

from typing import NamedTuple

import torch
from torch import Tensor

from fedmaml.core import seeding

NOISE = 0.03
"""Standard deviation of a measured yield."""

_CANDIDATES = 400
_PLANE = torch.tensor([[0.9, 0.1], [-0.4, 0.7], [0.5, 0.6]], dtype=torch.float64)
_NARROW, _WIDE = 0.18, 0.4


class Material(NamedTuple):
    """What nature knows of some materials.

    Attributes:
        best: c*, ``(materials, 3)``.
        width: w, ``(materials, 3)``.
        height: ``(materials,)``.
    """

    best: Tensor
    width: Tensor
    height: Tensor

    def yields(self, conditions: Tensor) -> Tensor:
        """Return yields ``(materials, trials)`` of conditions ``(materials or 1, trials, 3)``."""
        away = (conditions - self.best[:, None]) / self.width[:, None]
        return self.height[:, None] * torch.exp(-away.square().sum(-1) / 2)


def drawn(normal: Tensor, uniform: Tensor) -> Material:
    """Return materials of random numbers ``(materials, 5)`` and ``(materials, 4)``."""
    u, e = normal[:, :2], normal[:, 2:]
    place = 0.9 * (u[:, None] * _PLANE).sum(-1) + 0.05 * e
    width = _NARROW * (_WIDE / _NARROW) ** uniform[:, :3]
    return Material(0.5 + 0.28 * torch.tanh(place), width, 0.6 + 0.4 * uniform[:, 3])


def candidates() -> Tensor:
    """Return the conditions that may be chosen, ``(1, 400, 3)``."""
    return seeding.uniform(seeding.key(0, "synthesis", "candidates"), [0], _CANDIDATES, 3)


def inputs(conditions: Tensor) -> Tensor:
    """Return conditions as the network sees them, -1.5 to 1.5."""
    return 3 * (conditions - 0.5)


def surface_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the root mean squared error of the candidates' yields."""
    return (prediction[:-1, 0] - y[:-1]).square().mean().sqrt()


def regret(prediction: Tensor, y: Tensor) -> Tensor:
    """Return 1 - yield / height at the candidate that is predicted best.

    The height is the largest yield: that of the last row, unless the rows are shuffled.
    """
    chosen = prediction[:-1, 0].argmax()
    return 1 - y[:-1].gather(0, chosen[None])[0] / y.max()
