"""LINEAR: 6,146 variable stars of one survey, with period and shape of their light curves.

Palaversa et al. Exploring the Variable Sky with LINEAR. III. Classification of Periodic Light
Curves. AJ 146, 2013, 101. No licence is stated; github.com/astroML/astroML-data,
LINEARattributesFinalApr2013.dat.gz. The file read here is that table as CSV with a header.
"""

import csv
import gzip
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmaml.simulations.datasets.files import DataFile, located, read_once

CLASSES = ("RR_Lyrae_ab", "RR_Lyrae_c", "contact_binary", "Algol_like", "delta_Scuti_SX_Phe")
COLUMNS = ("ug", "gi", "iK", "JK", "logP", "ampl", "skew", "kurt")
CURVE = slice(4, 8)
"""The columns that describe the light curve."""
_MISSING = -99.99
FILE = DataFile(
    "astronomy",
    "linear_variables.csv.gz",
    "sha256:3eb544bfbc481541e23ec70f1e74077f17d79cbfdb85ee35de60502d221ab1e6",
    source="astroML, github.com/astroML/astroML-data, LINEARattributesFinalApr2013.dat.gz as CSV",
)


class Stars(NamedTuple):
    """Stars in the order of the file.

    Attributes:
        position: Right ascension and declination in degrees, ``(stars, 2)``.
        x: `COLUMNS`: four colours in mag, log10 of the period in days, amplitude in mag, skewness
            and excess kurtosis of the light curve, ``(stars, 8)``; NaN where missing.
        y: Index into `CLASSES`, ``(stars,)``.
    """

    position: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.int64]


@read_once
def load(data_dir: str = "") -> Stars:
    """Return the stars.

    Args:
        data_dir: Folder that holds a folder ``astronomy``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with gzip.open(located(FILE, data_dir), "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))
    x = np.array([[float(row[column]) for column in COLUMNS] for row in rows])
    return Stars(
        np.array([[float(row["ra"]), float(row["dec"])] for row in rows]),
        np.where(x == _MISSING, np.nan, x),
        np.array([CLASSES.index(row["LCname"]) for row in rows]),
    )
