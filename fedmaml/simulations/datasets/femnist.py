"""FEMNIST: handwritten characters by writer, a sample of 105 writers of LEAF's data set.

Caldas et al. LEAF: a benchmark for federated settings. arXiv:1812.01097, 2018 (BSD-2-Clause); from
Grother, NIST special database 19, 1995 (a work of the US government); Cohen et al. EMNIST. 2017.
"""

import numpy as np
import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, located, read_once
from fedmaml.simulations.datasets.twins import rows_of_owners

CLASSES = 62
SIZE = 28
FILE = DataFile(
    "femnist_subset",
    "femnist_105writers.npz",
    "sha256:ac10528cb336c74d2862ba5211d9120fb0c3898a5c5540c606e949ea3a40f63d",
    source='LEAF, "preprocess.sh -s niid --sf 0.05 -k 0 -t sample"',
)


@read_once
def load(data_dir: str = "") -> dict[str, tuple[Tensor, Tensor]]:
    """Return (x, y) of each writer by name, in the order of their numbers.

    x: uint8 ``(images, 28, 28)``, ink 255 and paper 0 (in LEAF's files it is the other way round);
    y: int64 ``(images,)``: 0 to 9, A to Z, a to z. Each writer of the file has one image twice; it
    is taken once, or the same image could stand in support and query.

    Args:
        data_dir: Folder that holds a folder ``femnist_subset``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with np.load(located(FILE, data_dir), allow_pickle=False) as arrays:
        images, labels, writers = arrays["images"], arrays["label"], arrays["writer_id"]
        names = arrays["writer_names"][np.unique(writers)].tolist()
    return {
        name: (
            torch.from_numpy(255 - images[rows]), torch.from_numpy(labels[rows].astype(np.int64))
        )
        for name, rows in zip(names, rows_of_owners(writers, images), strict=True)
    }  # fmt: skip
