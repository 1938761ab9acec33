"""Mechanics of a planar arm of two links (.4 and .35 m), linear in its seven parameters.

    tau_1 = a1 q1'' + a2 (cos q2 (2 q1'' + q2'') - sin q2 (2 q1' q2' + q2'^2)) + a3 q2''
            + b1 cos q1 + b2 cos(q1 + q2) + f1 q1'
    tau_2 = a2 (cos q2 q1'' + sin q2 q1'^2) + a3 (q1'' + q2'') + b2 cos(q1 + q2) + f2 q2'

a: inertia, kg m^2; b: gravity, Nm; f: friction, Nm s. Gautier, Khalil. Exciting Trajectories for
the Identification of Base Inertial Parameters of Robots. IJRR 11(4), 1992.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedmaml.core import seeding

PARAMETERS = torch.tensor([0.9, 0.18, 0.25, 14, 4.5, 1.2, 0.8], dtype=torch.float64)
"""a1 a2 a3 b1 b2 f1 f2 of the usual arm."""

_LINKS, _GRAVITY = (0.4, 0.35), 9.81
OF_MASS = torch.tensor(
    [_LINKS[0] ** 2 + _LINKS[1] ** 2, _LINKS[0] * _LINKS[1], _LINKS[1] ** 2,
     _GRAVITY * _LINKS[0], _GRAVITY * _LINKS[1], 0, 0], dtype=torch.float64
)  # fmt: skip
"""What each kilogram adds to the parameters."""


def regressors(q: Tensor, dq: Tensor, ddq: Tensor) -> Tensor:
    """Return Y, ``(..., 2, 7)``, of angles, speeds and accelerations ``(..., 2)``."""
    (q1, q2), (v1, v2), (w1, w2) = (each.unbind(-1) for each in (q, dq, ddq))
    zero, both = torch.zeros_like(q1), torch.cos(q1 + q2)
    coupled = torch.cos(q2) * (2 * w1 + w2) - torch.sin(q2) * (2 * v1 * v2 + v2**2)
    first = (w1, coupled, w2, torch.cos(q1), both, v1, zero)
    second = (zero, torch.cos(q2) * w1 + torch.sin(q2) * v1**2, w1 + w2, zero, both, zero, v2)
    return torch.stack([torch.stack(row, -1) for row in (first, second)], -2)


def motion(
    key: int, clients: Sequence[int], times: Tensor, spread: float = math.pi / 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Return angles, speeds and accelerations ``(clients, times, 2)``: three sinusoids a joint.

    Args:
        key: Of the draws.
        clients: A motion is drawn for each.
        times: In seconds, ``(times,)``.
        spread: Mean angles lie within so many rad of 0, either side.
    """
    amplitude, speed, phase, middle = seeding.uniform(key, clients, 4, 1, 2, 3).unbind(1)
    amplitude, speed = 0.1 + 0.4 * amplitude, 0.5 + 3.5 * speed
    angle = speed * times[:, None, None] + 2 * math.pi * phase
    centre = 2 * spread * (middle[..., 0] - 0.5)
    return (
        centre + (amplitude * angle.sin()).sum(-1),
        (amplitude * speed * angle.cos()).sum(-1),
        (-amplitude * speed**2 * angle.sin()).sum(-1),
    )
