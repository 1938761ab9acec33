"""MovieLens latest-small: 100,836 ratings of films by 610 people, half a star to five.

Harper, Konstan. The MovieLens Datasets: History and Context. ACM TiiS 5(4), 2015. GroupLens allows
research, and redistribution under the same terms; commercial use needs their permission.
https://grouplens.org/datasets/movielens/latest/. The file read here is ``ratings.csv``, compressed.
"""

import gzip

import numpy as np
import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, located, read_once

FILE = DataFile(
    "movielens_small",
    "ratings.csv.gz",
    "sha256:ac839bc1b8463325ddd33d5ad405895cf85c455769604b916dc581dd676f05a9",
    source="GroupLens, files.grouplens.org/datasets/movielens/ml-latest-small.zip",
)


@read_once
def load(data_dir: str = "") -> dict[str, tuple[Tensor, Tensor]]:
    """Return (film, stars) of each person, "user 1" being the first, in the order of time.

    film: int64 ``(ratings,)``, numbers from 0 in the order of MovieLens's; stars: float64. Of
    ratings of one second the film with the smaller number comes first.

    Args:
        data_dir: Folder that holds a folder ``movielens_small``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with gzip.open(located(FILE, data_dir), "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", skiprows=1)
    person, number, stars, second = table.T
    _, film = np.unique(number, return_inverse=True)
    order = np.lexsort((film, second, person))
    people = np.split(order, np.flatnonzero(np.diff(person[order])) + 1)
    return {
        f"user {person[rows[0]]:.0f}": (torch.from_numpy(film[rows]), torch.from_numpy(stars[rows]))
        for rows in people
    }
