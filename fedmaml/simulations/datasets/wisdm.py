"""WISDM activity recognition 1.1: 5,418 windows of 36 people who carried a phone.

Kwapisz, Weiss, Moore. Activity recognition using cell phone accelerometers. SensorKDD, 2010. Free
with its readme and this citation; https://www.cis.fordham.edu/wisdm/dataset.php. The file read here
is the data section of the publisher's ``WISDM_ar_v1.1_transformed.arff`` as CSV with a header.
"""

import csv
import gzip

import numpy as np
import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, located, read_once
from fedmaml.simulations.datasets.twins import rows_of_owners

ACTIVITIES = ("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing")
FEATURES = 43
FILE = DataFile(
    "wisdm_har",
    "wisdm_v1.1_transformed.csv.gz",
    "sha256:40c920c48508371522e38b7501d7b7fc9155632a004748c6b46a00339a8099e9",
    source="Fordham University, www.cis.fordham.edu/wisdm/dataset.php",
)


@read_once
def load(data_dir: str = "") -> tuple[tuple[Tensor, Tensor], ...]:
    """Return (x, y) of each person, in the order of their numbers; rows in the order of the file.

    x: float64 ``(windows, 43)``, statistics of ten seconds of three axes, NaN where missing; y:
    int64 ``(windows,)``, index into `ACTIVITIES`. 61 windows equal an earlier one of the same
    person in every feature; they are left out.

    Args:
        data_dir: Folder that holds a folder ``wisdm_har``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with gzip.open(located(FILE, data_dir), "rt", newline="") as lines:
        _, *rows = csv.reader(lines)
    people = np.array([int(row[1]) for row in rows])
    x = np.array([[float(cell or "nan") for cell in row[2:-1]] for row in rows])
    y = np.array([ACTIVITIES.index(row[-1]) for row in rows])
    return tuple(
        (torch.from_numpy(x[rows]), torch.from_numpy(y[rows])) for rows in rows_of_owners(people, x)
    )
