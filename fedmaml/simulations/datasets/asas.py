"""ASAS: light curves of 810 variable stars of 28 classes, seven of them with at most five stars.

Richards et al. Construction of a Calibrated Probabilistic Classification Catalog: Application to
50k Variable Sources in the All-Sky Automated Survey. ApJS 203, 2012, 32. No licence is stated;
github.com/cesium-ml/cesium-data, asas_training_set. The file read here holds the same light curves
in one archive of arrays.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmaml.simulations.datasets.files import DataFile, located, read_once

FILE = DataFile(
    "astronomy",
    "asas_lightcurves.npz",
    "sha256:63209dd1fee35c38090014837631a9b06b66e8547db5365e44ae7aeea2df0c19",
    source="cesium, github.com/cesium-ml/cesium-data, asas_training_set in one archive",
)
_DAY = 1e5  # units of time in the file


class Curve(NamedTuple):
    """The light curve of a star.

    Attributes:
        kind: Name of its class.
        days: Times, rising, ``(points,)``.
        magnitude: ``(points,)``; larger is fainter.
    """

    kind: str
    days: NDArray[np.float64]
    magnitude: NDArray[np.float64]


@read_once
def load(data_dir: str = "") -> tuple[Curve, ...]:
    """Return the stars, sorted by class and then by their number in the survey.

    Args:
        data_dir: Folder that holds a folder ``astronomy``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with np.load(located(FILE, data_dir), allow_pickle=False) as arrays:
        ends, kinds, sources = arrays["ptr"], arrays["label"], arrays["source_id"]
        days, magnitude = arrays["time_1e5day"] / _DAY, arrays["mag"].astype(float)
    stars = sorted(range(len(kinds)), key=lambda star: (kinds[star], int(sources[star])))
    return tuple(
        Curve(
            str(kinds[star]),
            days[ends[star] : ends[star + 1]],
            magnitude[ends[star] : ends[star + 1]],
        )
        for star in stars
    )
