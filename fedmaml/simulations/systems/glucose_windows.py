"""A person's glucose as windows: the value now, its last changes, and the change to come."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedmaml.simulations.datasets import glucose

CHANGES, AHEAD = 5, 2
"""Steps of the grid, back and ahead."""

SCALE = 20.0
"""Of changes, mg/dl."""

TWO_DAYS = 2 * 24 * 60 // glucose.GRID_MINUTES
_FEWEST_EACH, _FEWEST = 96, 350


class Windows(NamedTuple):
    """A person's windows in the order of time."""

    cohort: str
    diabetes: str
    x: Tensor
    y: Tensor
    time: Tensor


def windows(person: glucose.Person) -> Windows:
    """Return the windows in which every value of the grid is known; float64, time in its steps."""
    value = person.glucose
    now = np.arange(CHANGES, len(value) - AHEAD)
    x = [(value[now] - 140) / 60]
    x += [(value[now - k] - value[now - k - 1]) / SCALE for k in range(CHANGES)]
    y = (value[now + AHEAD] - value[now]) / SCALE
    whole = np.stack([*x, y], 1) if len(now) else np.zeros((0, CHANGES + 2))
    known = ~np.isnan(whole).any(1)
    rows = torch.from_numpy(whole[known])
    time = torch.from_numpy(now[known])
    return Windows(person.cohort, person.diabetes, rows[:, :-1], rows[:, -1], time)


def lacking(person: Windows) -> str:
    """Return what keeps a person from taking part; "" if nothing."""
    early = int((person.time < TWO_DAYS).sum())
    late = len(person.y) - early
    if early < _FEWEST_EACH:
        return f"fewer than {_FEWEST_EACH} windows in the first two days"
    if late < _FEWEST_EACH:
        return f"fewer than {_FEWEST_EACH} windows after two days"
    return f"fewer than {_FEWEST} windows" if early + late < _FEWEST else ""
