"""FS-Mol: 4,974 assays of ChEMBL; which molecules are active?

Stanley et al. FS-Mol: A Few-Shot Learning Dataset of Molecules. NeurIPS Datasets and Benchmarks,
2021. CC BY-SA 3.0; github.com/microsoft/FS-Mol, figshare.com/ndownloader/files/31345321. The files
read here hold the published training assays (4,935 of 4,938) and validation assays (39 of 40);
those of the test are not there.
"""

import csv
import gzip
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmaml.simulations.datasets.files import DataFile, located, read_once

_SOURCE = "FS-Mol, figshare.com/ndownloader/files/31345321, as three files"
TASKS = DataFile(
    "fsmol",
    "tasks.csv",
    "sha256:0cdadcb47fc4782ee97f9f50e809757e09b78b2ff5ef79bcee89271919d5e726",
    source=_SOURCE,
)
LABELS = DataFile(
    "fsmol",
    "fsmol_train_valid.npz",
    "sha256:2577644fa42541b67f7c6694e84b0a33e1e60c9c75ab595784f247b37fb98d02",
    source=_SOURCE,
)
SMILES = DataFile(
    "fsmol",
    "smiles.txt.gz",
    "sha256:c839cf656cf73f72a5b17f8692ca19cd6febd4878dab6eb52f78660aef8a16cf",
    source=_SOURCE,
)


class Assay(NamedTuple):
    """An assay.

    Attributes:
        name: In ChEMBL.
        split: The published one, "train" or "valid".
        target: Number of the target in ChEMBL.
        molecules: Positions in the list of SMILES, each once, ``(molecules,)``.
        active: ``(molecules,)``.
    """

    name: str
    split: str
    target: str
    molecules: NDArray[np.int64]
    active: NDArray[np.bool_]


@read_once
def load(data_dir: str = "") -> tuple[tuple[Assay, ...], tuple[str, ...]]:
    """Return the assays in the order of the file, and the SMILES of all molecules.

    Of a molecule that an assay has twice, in some with both labels, the first row is kept.

    Args:
        data_dir: Folder that holds a folder ``fsmol``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If a file is missing or is not the original.
    """
    with located(TASKS, data_dir).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    with np.load(located(LABELS, data_dir), allow_pickle=False) as arrays:
        ends, molecules, active = arrays["task_ptr"], arrays["compound"], arrays["label"]
    with gzip.open(located(SMILES, data_dir), "rt") as lines:
        smiles = tuple(lines.read().splitlines())
    assays = []
    for row, first, last in zip(rows, ends, ends[1:], strict=False):
        found, place = np.unique(molecules[first:last], return_index=True)
        order = np.argsort(place)
        own = found[order].astype(np.int64), active[first:last][place[order]] > 0
        assays.append(Assay(row["task"], row["split"], row["target_id"], *own))
    return tuple(assays), smiles
