"""Kinetics of phase transformations by Johnson, Mehl, Avrami and Kolmogorov: X = 1 - exp(-(k t)^n).

Avrami. Kinetics of Phase Change I. J. Chem. Phys. 7, 1939.
"""

import torch
from torch import Tensor, nn

from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references import curves

NOISE = 0.02
"""Standard deviation of simulated measurements."""

_MAX_POWER = 30.0  # of (k t)^n: beyond, X is 1 in float64, and its gradient must not overflow


def simulated(phi: Tensor, t: Tensor) -> Tensor:
    """Return X(t) of (log k, n): ``(..., 2)``, ``(points,)`` -> ``(..., points)``."""
    power = torch.exp(phi[..., 1:2] * (t.log() + phi[..., :1]))
    return 1 - torch.exp(-power.clamp(max=_MAX_POWER))


def measured(phi: Tensor, t: Tensor) -> Tensor:
    """Return A (1 - exp(-(t e^z1 / 13)^(3 z2))), A = sigmoid(2 z0), of z ``(..., 3)``."""
    power = torch.exp(3 * phi[..., 2:3] * ((t / 13).log() + phi[..., 1:2]))
    return torch.sigmoid(2 * phi[..., :1]) * (1 - torch.exp(-power.clamp(max=_MAX_POWER)))


FAMILIES = {
    "simulated": curves.Family(simulated, (0.3, 1.5), (-3.0, 0.2), (4.0, 8.0)),
    "measured": curves.Family(measured, (0.8, 0.0, 1.0), (-2.0, -1.5, 0.1), (3.0, 1.5, 8.0)),
}
"""Each with the guess from which every method starts."""


class Avrami(nn.Module):
    """The formula as a network; its weights are the parameters of a family of curves."""

    def __init__(self, data: str) -> None:
        super().__init__()
        self.family = FAMILIES[data]
        self.phi = nn.Parameter(torch.tensor(self.family.guess))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, 1)`` to ``(points, 1)``."""
        return self.family.function(self.phi, x[:, 0])[:, None]


def parameters(own: Tensor) -> Tensor:
    """Return (log k, n) of simulated materials, from standard normal numbers ``(..., 2)``."""
    return torch.stack([0.5 * own[..., 0], (2.5 + 0.6 * own[..., 1]).clamp(1, 4)], -1)


def oracle() -> Reference:
    """Return the mean curve of the posterior, given how simulated materials are drawn."""

    def fit(_clients: TrainingClients) -> Adapt:
        grid, density = curves.normal_grid(2, 81)
        noise = torch.tensor(NOISE**2, dtype=torch.float64)
        return curves.weighted_curves(FAMILIES["simulated"], parameters(grid), density, noise)

    about = "the posterior's mean curve, given the transformations' distribution"
    return Reference("oracle", about, fit, oracle=True)
