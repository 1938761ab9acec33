"""Panda: 21 seconds of a Franka Emika Panda, its joints' angles, speeds and torques.

Gaz, Cognetti, Oliva, Robuffo Giordano, De Luca. Dynamic Identification of the Franka Emika Panda
Robot With Retrieval of Feasible Parameters Using Penalty-Based Optimization. IEEE RA-L 4, 2019,
4147-4154. GPL-3.0, https://github.com/marcocognetti/FrankaEmikaPandaDynModel. The file read here
holds every fourth sample of one exciting trajectory. One robot, without a payload.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, located, read_once

JOINTS = 7
FILE = DataFile(
    "robot_franka_panda",
    "panda_exciting_trajectory.npz",
    "sha256:1794d85705bca58a447df47d76491c0aa45132a67106b9e7c1fd6bfc0d2fbee0",
    source="github.com/marcocognetti/FrankaEmikaPandaDynModel, every fourth sample",
)


class Motion(NamedTuple):
    """A measured motion, float64.

    Attributes:
        seconds: Times, ``(samples,)``; about 250 a second.
        q: Angles in rad, ``(samples, 7)``.
        dq: Speeds in rad/s.
        torque: Torques of the joints in Nm.
    """

    seconds: Tensor
    q: Tensor
    dq: Tensor
    torque: Tensor


@read_once
def load(data_dir: str = "") -> Motion:
    """Return the motion.

    Args:
        data_dir: Folder that holds a folder ``robot_franka_panda``; "" means the environment
            variable FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with np.load(located(FILE, data_dir), allow_pickle=False) as arrays:
        columns = [arrays[name] for name in ("time_s", "q_rad", "dq_rad_s", "tau_Nm")]
    return Motion(*(torch.from_numpy(column.astype(np.float64)) for column in columns))
