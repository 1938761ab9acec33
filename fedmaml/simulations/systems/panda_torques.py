"""What joint 2 of a measured arm would feel of a payload, beside all that mechanics explain.

Accelerations are the gradients of the speeds, smoothed over nine samples. A ridge regression of the
torque on 30 numbers of the motion (accelerations, these times the cosines of the angles, friction,
sines and cosines) is fitted on every other half second of 125 samples, its weight by five folds of
these blocks. What it leaves over in the *other* blocks stands for the model error of an identified
robot: about 2 Nm, and alike for a tenth of a second. A payload of m kg adds m h,

    h = 9.81 * .6 sin q2 + .36 q2''        a point mass .6 m from the axis
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from fedmaml.core.linear import ridge, with_ones
from fedmaml.simulations.datasets import panda

SAMPLES = 125
"""In a block, half a second."""

_JOINT, _SMOOTHED, _FOLDS = 1, 9, 5
_WEIGHTS = tuple(10.0**power for power in range(-3, 5))
_GRAVITY, _ARM = 9.81, 0.6  # m/s^2, m
_STICTION = 0.05  # rad/s, above which friction has its full size


@lru_cache(maxsize=2)
def blocks(data_dir: str) -> Tensor:
    """Return (h in Nm/kg, the unexplained torque in Nm) of the blocks that nothing was fitted on.

    Args:
        data_dir: As `datasets.panda.load` takes it.

    Returns:
        ``(20 blocks, 125, 2)``, in the order of time.
    """
    seconds, q, dq, torque = panda.load(data_dir)
    ddq = _smooth(torch.gradient(dq, spacing=(seconds,), dim=0)[0])
    lever = _GRAVITY * _ARM * q[:, _JOINT].sin() + _ARM**2 * ddq[:, _JOINT]
    x, y = _in_blocks(_numbers_of(q, dq, ddq)), _in_blocks(torque[:, _JOINT])
    fitted = slice(0, None, 2)
    mean, scale = x[fitted].flatten(0, 1).mean(0), x[fitted].flatten(0, 1).std(0)
    x = (x - mean) / scale
    weights = _fit(x[fitted], y[fitted])
    left = y - torch.stack([with_ones(block) @ weights for block in x])
    return torch.stack([_in_blocks(lever), left], -1)[1::2]


def _numbers_of(q: Tensor, dq: Tensor, ddq: Tensor) -> Tensor:
    """Return 30 numbers of each sample that a torque of joint 2 may be linear in."""
    speed = dq[:, _JOINT : _JOINT + 1]
    return torch.cat(
        [ddq, ddq * q.cos(), speed, torch.tanh(speed / _STICTION), q.sin(), q.cos()], 1
    )


def _fit(x: Tensor, y: Tensor) -> Tensor:
    """Return the ridge regression whose weight does best on blocks left out, ``(columns + 1,)``."""
    errors = []
    for weight in _WEIGHTS:
        squares = [
            (with_ones(x[out].flatten(0, 1)) @ _of(x[kept], y[kept], weight) - y[out].flatten())
            .square().mean()
            for kept, out in _folds(len(x))
        ]  # fmt: skip
        errors.append(float(torch.stack(squares).mean()))
    return _of(x, y, _WEIGHTS[errors.index(min(errors))])


def _of(x: Tensor, y: Tensor, weight: float) -> Tensor:
    return ridge(with_ones(x.flatten(0, 1)), y.flatten()[:, None], weight)[:, 0]


def _folds(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    numbers = torch.arange(count)
    for fold in range(_FOLDS):
        out = numbers % _FOLDS == fold
        yield numbers[~out], numbers[out]


def _in_blocks(samples: Tensor) -> Tensor:
    """Return ``(blocks, 125, ...)``; samples that fill no block are left out."""
    whole = len(samples) // SAMPLES * SAMPLES
    return samples[:whole].reshape(-1, SAMPLES, *samples.shape[1:])


def _smooth(values: Tensor) -> Tensor:
    """Return the mean of nine neighbours in time, ``(samples, columns)``; ends are repeated."""
    half = _SMOOTHED // 2
    padded = torch.cat([values[:1].expand(half, -1), values, values[-1:].expand(half, -1)])
    return padded.unfold(0, _SMOOTHED, 1).mean(-1)
