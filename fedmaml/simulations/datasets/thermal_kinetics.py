"""Thermogravimetry of PMMA and wood, measured by 25 laboratories: how much mass is lost, at what T.

MaCFP Condensed Phase Working Group. Data base of pyrolysis experiments, 2021; MIT licence;
https://github.com/MaCFP/matl-db (Calibration_Data of PMMA and Wood). The files read here hold its
runs in one array, those longer than 600 points thinned evenly.
"""

import csv
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmaml.simulations.datasets.files import DataFile, located, read_once

_SOURCE = "github.com/MaCFP/matl-db"
RUNS = DataFile(
    "thermal_kinetics",
    "runs.csv",
    "sha256:a682a2c6cec5deaab9e54a1b03ee6af7e4486e036c65bded46f3297782cbcc42",
    source=_SOURCE,
)
CURVES = DataFile(
    "thermal_kinetics",
    "curves.npz",
    "sha256:3381ac23c273df39f6d1a59554ac2091acf7ac0c8e19a21782fd34ba419b5450",
    source=_SOURCE,
)
FIRST_K, LAST_K = 480.0, 760.0
"""Temperatures that every run covers."""

_FROM_K = 500.0  # the mass there counts as 1
_RATES = (5.0, 50.0)  # K/min
_MIN_MASS = 0.5  # at 500 K, of the first value


class Run(NamedTuple):
    """A run of steady heating.

    Attributes:
        material: "PMMA" or "Wood".
        laboratory: Its code.
        temperature: Kelvin, rising.
        conversion: 1 - mass / mass at 500 K.
    """

    material: str
    laboratory: str
    temperature: NDArray[np.float64]
    conversion: NDArray[np.float64]

    def at(self, kelvin: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the conversion at some temperatures, interpolated."""
        return np.interp(kelvin, self.temperature, self.conversion)


@read_once
def load(data_dir: str = "") -> tuple[Run, ...]:
    """Return the runs in the order of the file.

    Those of PMMA and wood by TGA or STA, heated by 5 to 50 K/min, from below 480 to above 760 K,
    which have kept half of their mass at 500 K.

    Args:
        data_dir: Folder that holds a folder ``thermal_kinetics``; "" means the environment
            variable FEDMAML_DATA.

    Raises:
        DataError: If a file is missing or is not the original.
    """
    with located(RUNS, data_dir).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    with np.load(located(CURVES, data_dir), allow_pickle=False) as arrays:
        ends = arrays["ptr"]
        temperature, mass = (arrays[name].astype(float) for name in ("temperature_K", "mass_frac"))
    runs = []
    for row in rows:
        part = slice(*ends[int(row["run"]) : int(row["run"]) + 2])
        if _wanted(row) and (run := _run(row, temperature[part], mass[part])):
            runs.append(run)
    return tuple(runs)


def _wanted(row: dict[str, str]) -> bool:
    heated = not row["isothermal_K"] and row["technique"] in ("TGA", "STA")
    known = row["material"] in ("PMMA", "Wood")
    return known and heated and _RATES[0] <= float(row["heating_rate_K_min"] or 0) <= _RATES[1]


def _run(
    row: dict[str, str], temperature: NDArray[np.float64], mass: NDArray[np.float64]
) -> Run | None:
    """Return a run at rising temperatures; None if it does not qualify."""
    known = ~np.isnan(temperature) & ~np.isnan(mass)
    temperature, mass = temperature[known], mass[known]
    if not len(mass) or temperature[0] > FIRST_K or temperature.max() < LAST_K:
        return None
    highest = np.maximum.accumulate(temperature)
    rising = np.concatenate([[True], temperature[1:] > highest[:-1]])
    temperature, mass = temperature[rising], mass[rising]
    start = np.interp(_FROM_K, temperature, mass)
    if start < _MIN_MASS:
        return None
    return Run(row["material"], row["lab"], temperature, 1 - mass / start)
