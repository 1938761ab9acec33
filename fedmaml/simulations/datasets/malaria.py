"""Malaria: red blood cells of 200 patients in thin smears, infected or not.

Rajaraman et al. Pre-trained convolutional neural networks as feature extractors toward improved
malaria parasite detection in thin blood smear images. PeerJ 6, 2018, e4568. A work of the US
government (NLM); https://lhncbc.nlm.nih.gov/publication/pub9932. The file read here holds at most
25 cells of each patient and class as grey images of 28 x 28 pixels, 7,854 of 27,558.
"""

import numpy as np
import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, located, read_once
from fedmaml.simulations.datasets.twins import rows_of_owners

SIZE = 28
FILE = DataFile(
    "malaria_cells",
    "malaria_28x28_gray.npz",
    "sha256:61258e1cea4d83abb48ee597da83382791a4f2a5396e011390e399030e4288df",
    source="National Library of Medicine, lhncbc.nlm.nih.gov, cell_images.zip in grey",
)


@read_once
def load(data_dir: str = "") -> dict[str, tuple[Tensor, Tensor]]:
    """Return (x, y) of each patient by name, in the order of their numbers.

    x: uint8 ``(cells, 28, 28)``; y: int64 ``(cells,)``, 1 for an infected cell. A cell that equals
    an earlier one of the patient byte by byte is left out.

    Args:
        data_dir: Folder that holds a folder ``malaria_cells``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with np.load(located(FILE, data_dir), allow_pickle=False) as arrays:
        images, labels, patients = arrays["images"], arrays["label"], arrays["patient_id"]
        names = arrays["patients"][np.unique(patients)].tolist()
    return {
        name: (torch.from_numpy(images[rows]), torch.from_numpy(labels[rows].astype(np.int64)))
        for name, rows in zip(names, rows_of_owners(patients, images), strict=True)
    }
