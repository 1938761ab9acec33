"""Continuous glucose monitoring: 1,094,355 readings of 452 people, from nine published studies.

Prioleau, Lu, Cui. Glucose-ML: a collection of longitudinal diabetes datasets for development of
robust AI solutions. arXiv:2507.14077, 2025 (MIT). The studies and their licences: Hall 2018 and
Colas 2019 (CC BY 4.0), ShanghaiT1DM and T2DM (article CC BY 4.0), D1NAMO (CC BY-SA 4.0), HUPA-UCM
(CC BY 4.0), BIGIDEAs (ODC-By 1.0), PhysioCGM (CC0), T1D-UOM (CC BY 4.0). The files read here hold
the glucose readings and the times between them; calendar dates are left out.
"""

import csv
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmaml.simulations.datasets.files import DataFile, located, read_once

_SOURCE = "github.com/Augmented-Health-Lab/Glucose-ML-Project"
READINGS = DataFile(
    "cgm_glucose",
    "cgm.npz",
    "sha256:5a0dc91a7b4a5d76483d628fcb962ab4dabcf25e7ca1a921a2c3c945da385b79",
    source=_SOURCE,
)
SUBJECTS = DataFile(
    "cgm_glucose",
    "subjects.csv",
    "sha256:40bf502f7737274c7d0bfaf6048f3110d0ea616c2b96472cebfd9e28ac58a65b",
    source=_SOURCE,
)
GRID_MINUTES = 15
_NEAR_MINUTES = 3  # a reading this far from a point of the grid counts as one at it


class Person(NamedTuple):
    """A person.

    Attributes:
        name: The study and the person's number in it.
        cohort: The study.
        diabetes: "T1D", "T2D", "Prediabetes" or "No diabetes".
        glucose: mg/dl every `GRID_MINUTES` from the first reading on; NaN where none is near.
    """

    name: str
    cohort: str
    diabetes: str
    glucose: NDArray[np.float64]


@read_once
def load(data_dir: str = "") -> tuple[Person, ...]:
    """Return the people, sorted by study and their number in it.

    Args:
        data_dir: Folder that holds a folder ``cgm_glucose``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If a file is missing or is not the original.
    """
    with located(SUBJECTS, data_dir).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    with np.load(located(READINGS, data_dir), allow_pickle=False) as arrays:
        ends, steps, tenths = arrays["ptr"], arrays["dt_minutes"], arrays["glucose_x10"]
    order = sorted(range(len(rows)), key=lambda k: (rows[k]["cohort"], rows[k]["person_id"]))
    return tuple(
        Person(
            f"{rows[k]['cohort']} {rows[k]['person_id']}",
            rows[k]["cohort"],
            rows[k]["diabetes_type"],
            on_grid(np.cumsum(steps[ends[k] : ends[k + 1]]), tenths[ends[k] : ends[k + 1]] / 10),
        )
        for k in order
    )


def on_grid(minutes: NDArray[np.integer], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest reading within three minutes of each point of the grid, or NaN.

    Args:
        minutes: Times of the readings, rising.
        values: The readings.
    """
    minutes = minutes - minutes[0]
    grid = np.arange(0, minutes[-1] + 1, GRID_MINUTES)
    after = np.searchsorted(minutes, grid).clip(1, max(1, len(minutes) - 1))
    after = np.minimum(after, len(minutes) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.where(grid - minutes[before] <= minutes[after] - grid, before, after)
    return np.where(np.abs(minutes[nearer] - grid) <= _NEAR_MINUTES, values[nearer], np.nan)
