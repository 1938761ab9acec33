"""Perovskites: formation energies of 18,928 compounds of two cations and three anions, by DFT.

Castelli et al. New cubic perovskites for one- and two-photon water splitting using the
computational materials repository. Energy Environ. Sci. 5, 2012, 9034; from the Computational
Materials Repository through matbench (MIT), https://ml.materialsproject.org/projects/
matbench_perovskites.json.gz. The file read here is its table, with the families of anions.
"""

import csv
import gzip

import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, located, read_once

FILE = DataFile(
    "materials",
    "castelli_perovskites.csv.gz",
    "sha256:266071f1270229614fdfb09b3b977c9a5a3e16579b176e99dedf26f00f3df92c",
    source="ml.materialsproject.org/projects/matbench_perovskites.json.gz",
)
FAMILIES = {
    "N3": "NNN", "O3": "OOO", "FO2": "FOO", "O2S": "OOS", "FNO": "FNO", "NO2": "NOO", "N2O": "NNO",
}  # fmt: skip
"""Families by name, and their three anions."""


@read_once
def load(data_dir: str = "") -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Return the cations, sorted, and each family's energies in eV per cell, ``(52, 52)``.

    The file does not say which cation is on which site, so most compounds are there twice, with
    two energies; the lower one, of the more stable order, is the entry of both.

    Args:
        data_dir: Folder that holds a folder ``materials``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with gzip.open(located(FILE, data_dir), "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))
    pairs = [tuple(row["cations"].split("-")) for row in rows]
    cations = tuple(sorted({cation for pair in pairs for cation in pair}))
    place = {cation: index for index, cation in enumerate(cations)}
    energies = {
        family: torch.full((len(cations), len(cations)), torch.inf, dtype=torch.float64)
        for family in FAMILIES
    }
    for row, pair in zip(rows, pairs, strict=True):
        one, other = place[pair[0]], place[pair[-1]]
        matrix, energy = energies[row["anion_family"]], float(row["e_form_eV_per_cell"])
        matrix[one, other] = matrix[other, one] = min(float(matrix[one, other]), energy)
    return cations, energies
