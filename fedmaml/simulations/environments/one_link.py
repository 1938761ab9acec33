"""A one-link arm that carries an unknown payload, differentiable from end to end.

    torque    u' = 40 tanh(u / 40)                                Nm
    w <- w + dt (u' - b w - m 9.81 l cos q) / I + .02 eps,  then 30 tanh(w / 30)      rad / s
    q <- q + dt w                                                 rad, I = .1 + m l^2, l = .5 m

The world has ``mass`` m in kg, ``friction`` b in N m s and ``target`` in rad, each
``(episodes,)``. The arm begins at rest, level, q = 0. Made-up arm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmaml.simulations.environments.base import Outcome, World

LENGTH, GRAVITY, INERTIA = 0.5, 9.81, 0.1
_MAX_TORQUE, _MAX_SPEED, _JITTER = 40.0, 30.0, 0.02


@dataclass(frozen=True)
class OneLinkArm:
    """State (q, w); the reward is minus the cost of a step, see `cost`.

    Attributes:
        horizon: Steps.
        seconds: Of a step, dt.
    """

    horizon: int = 40
    seconds: float = 0.05
    chances: int = 1

    def begin(self, world: World) -> Tensor:
        """Return the arm at rest."""
        return torch.zeros_like(torch.stack([world["mass"]] * 2, -1))

    def observe(self, world: World, state: Tensor, step: int) -> Tensor:
        """Return angle, speed and target."""
        del step
        return torch.cat([state, world["target"][:, None]], -1)

    def step(self, world: World, state: Tensor, action: Tensor, chance: Tensor) -> Outcome:
        """Apply the torque ``action``, ``(episodes, 1)``, in Nm."""
        q, w = state.unbind(-1)
        mass, u = world["mass"], action[:, 0]
        torque = _MAX_TORQUE * torch.tanh(u / _MAX_TORQUE)
        load = world["friction"] * w + mass * GRAVITY * LENGTH * torch.cos(q)
        inertia = INERTIA + mass * LENGTH**2
        w = w + self.seconds * (torque - load) / inertia + _JITTER * chance[:, 0]
        w = _MAX_SPEED * torch.tanh(w / _MAX_SPEED)
        q = q + self.seconds * w
        goes_on = torch.ones_like(q, dtype=torch.bool)
        return Outcome(torch.stack([q, w], -1), -cost(q - world["target"], u), goes_on)


def cost(error: Tensor, torque: Tensor) -> Tensor:
    """Return log(1 + 10 error^2) + 1e-4 torque^2, error in rad, torque in Nm."""
    return torch.log1p(10 * error**2) + 1e-4 * torque**2
