"""Payload of a measured arm: a tenth of a second of a real motion, the payload added afterwards.

Joint 2 of a Franka Emika Panda (`datasets.panda`): the torque that an identified model leaves over,
plus m h of a payload that was never there (`systems.panda_torques`). A client is a payload of m kg,
m ~ U(.2, 3). Its support are ``seconds`` of consecutive samples, its query .4 s of another block;
blocks that train, validate and test are different ones. An example is one sample, and the one
weight is the mass.

The last query row of an evaluated client reads the mass: "mass" is the error there. What the model
leaves over is no noise, since it is alike for a tenth of a second: more samples hardly help, and
windows of samples in random order would hide it. One robot for 21 seconds: this says nothing about
robots.

Gaz et al. Dynamic Identification of the Franka Emika Panda Robot. IEEE RA-L 4, 2019.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import LinearModel
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import SPLITS, Recipes, Scenario, Split
from fedmaml.simulations.systems import payloads
from fedmaml.simulations.systems.panda_torques import SAMPLES, blocks

_LIGHTEST, _HEAVIEST = 0.2, 3.0  # kg
_SAMPLES_A_SECOND, _QUERIES = 250, 100
_RIDGES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_META = {"inner.lr": 0.04, "inner.steps": 3, "outer.lr": 0.05, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.02, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.005, "adaptation.steps": 50}  # fmt: skip


@settings
class PayloadMeasured(Scenario):
    """Payloads at a measured arm.

    Attributes:
        seed: Determines payloads and windows.
        train_clients: Payloads that train.
        validation_clients: Payloads for evaluation during training.
        test_clients: Payloads for the final evaluation.
        seconds: Length of the motion that a new client adapts on.
        data_dir: Folder with the data, see `datasets.panda.load`.
    """

    about: ClassVar[str] = "payload added to a measured arm, from .1 s of its motion (Panda), in kg"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 200, "clients": 20, "dtype": "float64"},
        "local": {"rounds": 0, "inner.lr": 0.02, "inner.steps": 100},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.05,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 100
    validation_clients: Annotated[int, Ge(0)] = 200
    test_clients: Annotated[int, Gt(0)] = 600
    seconds: Annotated[float, Ge(0.02), Le(0.5)] = 0.1
    data_dir: str = ""

    def problem(self) -> Problem:
        metric = Metric("mass", "kg", "lower", math.inf, payloads.read_mass_error, least=0)
        return Problem(
            lambda: LinearModel(1, 1, bias=False), half_squared_error, (metric,), ordered=True
        )

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return self._samples() + _QUERIES

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        own = self._blocks(split)
        key = self._key(split, round)
        order = seeding.permutation(key, clients, len(own))
        start = seeding.uniform(seeding.key(key, "start"), clients, 2)
        mass = self.masses(clients)[:, None]
        support, query = (
            _window(own[order[:, place]], start[:, place], length, mass)
            for place, length in enumerate((self._samples(), _QUERIES))
        )
        if split != "train":
            row = torch.ones(len(clients), 1, 1, dtype=torch.float64)
            query = Batch(torch.cat([query.x, row], 1), torch.cat([query.y, mass], 1))
        return [TaskGroup(tuple(clients), Task(support, query))]

    def references(self) -> tuple[Reference, ...]:
        return (
            references.least_squares(references.identity),
            references.ridge_to_the_mean(references.identity, _RIDGES),
            references.hierarchical_ridge(references.identity),
        )

    def groups(self, client: int) -> Mapping[str, str]:
        order = seeding.permutation(self._key("test", 0), [client], len(self._blocks("test")))
        return {"block": str(int(order[0, 0]))}

    def masses(self, clients: Sequence[int]) -> Tensor:
        """Return payloads in kg ``(clients,)``."""
        share = seeding.uniform(seeding.key(self.seed, "payload_measured", "mass"), clients)
        return _LIGHTEST + (_HEAVIEST - _LIGHTEST) * share

    def _blocks(self, split: Split) -> Tensor:
        return blocks(self.data_dir)[SPLITS.index(split) :: len(SPLITS)]

    def _key(self, split: Split, round: int) -> int:
        at = round if split == "train" else 0
        return seeding.key(self.seed, "payload_measured", split, at)

    def _samples(self) -> int:
        return round(self.seconds * _SAMPLES_A_SECOND)


def _window(own: Tensor, start: Tensor, length: int, mass: Tensor) -> Batch:
    """Return consecutive samples of each client's block ``(clients, 125, 2)``."""
    first = (start * (SAMPLES - length + 1)).long()
    rows = first[:, None] + torch.arange(length)
    lever, left = own.gather(1, rows[..., None].expand(-1, -1, 2)).unbind(-1)
    return Batch(lever[..., None], left + mass * lever)
