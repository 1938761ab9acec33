"""Robot failures: forces and torques in the third of a second after a robot's move went wrong.

Seabra Lopes, Camarinha-Matos. Feature transformation strategies for a robot learning problem. In:
Feature Extraction, Construction and Selection. Kluwer, 1998. UCI data set 138, 1999. CC BY 4.0.

Five learning problems, each with kinds of failures of its own. They are not independent: problem 3
has the recordings of problem 2, and problem 5 those of problems 2 and 4, under other labels.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, located, read_once
from fedmaml.simulations.datasets.twins import rows_of_owners

TIMES, CHANNELS = 15, 6
FILE = DataFile(
    "robot_failures",
    "robot_execution_failures.npz",
    "sha256:bb33182a73e71d1ee7b761e13f7d22c2db031dfaff1108db3abc4876bfc5d463",
    source="UCI, archive.ics.uci.edu/dataset/138/robot+execution+failures, as one array",
)


class Recordings(NamedTuple):
    """The recordings of a learning problem.

    Attributes:
        x: Forces and torques Fx Fy Fz Tx Ty Tz, int16 ``(recordings, 15, 6)``.
        y: Kind of each, index into ``kinds``, int64 ``(recordings,)``.
        kinds: Their names, in the order of the alphabet.
    """

    x: Tensor
    y: Tensor
    kinds: tuple[str, ...]

    def checksums(self) -> tuple[bytes, ...]:
        """Return the bytes of each recording: equal for copies."""
        return tuple(recording.numpy().tobytes() for recording in self.x)


@read_once
def load(data_dir: str = "") -> dict[int, Recordings]:
    """Return the recordings of each learning problem, 1 to 5.

    A recording that equals an earlier one of the same problem is left out (four of 463).

    Args:
        data_dir: Folder that holds a folder ``robot_failures``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with np.load(located(FILE, data_dir), allow_pickle=False) as arrays:
        x, labels, problems = (
            arrays[name] for name in ("force_torque", "label", "learning_problem")
        )
    found = {}
    for problem, rows in zip(np.unique(problems), rows_of_owners(problems, x), strict=True):
        kinds, y = np.unique(labels[rows], return_inverse=True)
        found[int(problem)] = Recordings(
            torch.from_numpy(x[rows]), torch.from_numpy(y.astype(np.int64)), tuple(map(str, kinds))
        )
    return found
