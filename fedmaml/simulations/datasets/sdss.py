"""SDSS: 10,000 objects of Data Release 14 with spectra: galaxies, stars and quasars, by plate.

Abolfathi et al. The Fourteenth Data Release of the Sloan Digital Sky Survey. ApJS 235, 2018, 42.
Public, with acknowledgement of SDSS; SDSS CasJobs, skyserver.sdss.org. A plate is a metal plate
with holes for the fibres of one exposure: one field of the sky. Redshift nearly names the class, so
it is not read; nor are position and fibre.
"""

import csv
import gzip

import numpy as np
import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, located, read_once
from fedmaml.simulations.datasets.twins import rows_of_owners

CLASSES = ("GALAXY", "STAR", "QSO")
FEATURES = 5
FILE = DataFile(
    "astronomy",
    "sdss_dr14_10k.csv.gz",
    "sha256:69d2e0f7f297978f9df41e5748e884dee7703f90eaa471d107deab19bd3bb12a",
    source="SDSS CasJobs, skyserver.sdss.org, Data Release 14",
)


@read_once
def load(data_dir: str = "") -> dict[str, tuple[Tensor, Tensor]]:
    """Return (x, y) of each plate by name, in the order of their numbers.

    Rows are in the order of the file.

    x: float64 ``(objects, 5)``, colours u-g, g-r, r-i, i-z and r, in mag; y: int64 ``(objects,)``,
    index into `CLASSES`.

    Args:
        data_dir: Folder that holds a folder ``astronomy``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with gzip.open(located(FILE, data_dir), "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))
    magnitude = np.array([[float(row[band]) for band in "ugriz"] for row in rows])
    x = np.concatenate([-np.diff(magnitude), magnitude[:, 2:3]], 1)
    y = np.array([CLASSES.index(row["class"]) for row in rows])
    plates = np.array([int(row["plate"]) for row in rows])
    return {
        f"plate {plates[own[0]]}": (torch.from_numpy(x[own]), torch.from_numpy(y[own]))
        for own in rows_of_owners(plates, x)
    }
