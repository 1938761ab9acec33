"""JMAK: the rest of a phase transformation, from a few points of its beginning.

    X(t) = 1 - exp(-(k t)^n)                                Johnson, Mehl, Avrami, Kolmogorov

The network is the formula; its parameters are log k and the Avrami exponent n. A client is one
transformation; the support are ``shots`` points of its beginning.

``data="simulated"``: log k ~ N(0, .5^2), n ~ N(2.5, .6^2) within 1 to 4, noise .02. Of 20 points
up to t = 1, where a typical curve is 60 % done, some are the support; of 60 up to t = 4 some are
the query in training, else it is the curve without noise. The support's Hessian has eigenvalues .6
and .004: a few steps learn log k and nearly nothing of n.

``data="measured"``: runs of PMMA and wood in 25 laboratories, X(T) = A (1 - exp(-(k T)^n)) of the
temperature above 500 K. Support: points below 610 K; query: 505 to 750 K. Laboratories that train,
validate and test are different ones. What a new run must reveal is which material it is.

Avrami. Kinetics of Phase Change I. J. Chem. Phys. 7, 1939. Measured: see `thermal_kinetics`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, pairwise
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.figures import Figure, worst_decile, worst_group
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import RMSE
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations.datasets import thermal_kinetics
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.references import archive, curves
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems.kinetics import (
    FAMILIES,
    NOISE,
    Avrami,
    oracle,
    parameters,
    simulated,
)

_SHARES = (0, 0.47, 0.67, 1)  # of the laboratories, at which the splits begin and end
_EARLY = torch.linspace(0.05, 1, 20, dtype=torch.float64)
_LATE = torch.linspace(0.07, 4, 60, dtype=torch.float64)
_QUERIES = 30  # in training
CURVE = torch.linspace(0.06, 4, 40, dtype=torch.float64)
"""Times of the query of an evaluated transformation."""
GRID = torch.linspace(0.5, 25, 40, dtype=torch.float64)
"""The query of a measured run, in 10 K above 500 K; the same points in training."""
_BEGINNING = torch.linspace(0.3, 11, 30, dtype=torch.float64)
_META = {"inner.lr": 3.0, "inner.steps": 20, "outer.lr": 0.03, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 3.0, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 3.0, "adaptation.steps": 1000}  # fmt: skip


@settings
class Jmak(Scenario):
    """Transformation kinetics from a few early points.

    Attributes:
        seed: Determines transformations, noise and points; of measured runs, who trains.
        data: "simulated", or "measured" runs of thermogravimetry.
        shots: Points of the beginning.
        train_clients: Simulated transformations that train.
        validation_clients: Those for evaluation during training.
        test_clients: Those for the final evaluation.
        data_dir: Folder with the measured runs, see `datasets.thermal_kinetics.load`.
    """

    about: ClassVar[str] = "the rest of a phase transformation (JMAK) from its first points"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 300, "clients": 20, "dtype": "float64"},
        "local": {"rounds": 0, "inner.lr": 3.0, "inner.steps": 1000},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.03,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"inner.lr": 6.0, "inner.steps": 20},
        "maml": _META, "fomaml": _META, "map": _META | {"inner.steps": 5},
        "meta_sgd": _META | {"inner.lr": 6.0},
    }  # fmt: skip
    only_with: ClassVar = dict.fromkeys(
        ("train_clients", "validation_clients", "test_clients"), ("data", ("simulated",))
    )

    seed: int = 0
    data: Literal["simulated", "measured"] = "simulated"
    shots: Annotated[int, Gt(0), Le(len(_EARLY))] = 5
    train_clients: Annotated[int, Gt(0)] = 100
    validation_clients: Annotated[int, Ge(0)] = 100
    test_clients: Annotated[int, Gt(0)] = 400
    data_dir: str = ""

    def problem(self) -> Problem:
        return Problem(partial(Avrami, self.data), half_squared_error, (RMSE,), head="")

    def clients(self) -> dict[Split, range]:
        if self.data == "simulated":
            return numbered(self.train_clients, self.validation_clients, self.test_clients)
        return numbered(*(len(runs) for runs in _laboratories(self)))

    def max_examples(self, client: int) -> int:
        return self.shots + (_QUERIES if self.data == "simulated" else len(GRID))

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        draw = seeding.key(self.seed, "jmak", split, round if split == "train" else 0)
        if self.data == "measured":
            early, late = self._measured(draw, clients)
        else:
            early = self._kept("early", draw, clients, _EARLY, self.shots)
            late = self._kept("late", draw, clients, _LATE, _QUERIES)
            if split != "train":
                curve = CURVE.expand(len(clients), -1)[..., None]
                late = Batch(curve, simulated(self.phi(clients), CURVE))
        return [TaskGroup(tuple(clients), Task(early, late))]

    def references(self) -> tuple[Reference, ...]:
        family = FAMILIES[self.data]
        fitted = (
            curves.nonlinear_least_squares(family),
            curves.mean_curve(family),
            curves.map_estimate(family, (1.0, 2.0, 4.0)),
        )
        if self.data == "measured":
            return (
                *fitted,
                archive.mean_of_curves(GRID),
                archive.kriging(GRID, (0.003, 0.01, 0.03)),
                archive.nearest_curves(GRID, (1, 2, 3, 5, 10)),
            )
        return *fitted, curves.posterior_mean(family), curves.likely_curves(family), oracle()

    def figures(self) -> tuple[Figure, ...]:
        if self.data == "simulated":
            return (worst_decile(RMSE),)
        return worst_decile(RMSE), worst_group(RMSE, "material")

    def groups(self, client: int) -> Mapping[str, str]:
        if self.data == "simulated":
            return {}
        run = self._run(client)
        return {"material": run.material, "laboratory": run.laboratory}

    def phi(self, clients: Sequence[int]) -> Tensor:
        """Return (log k, n) of simulated transformations, float64 ``(clients, 2)``."""
        return parameters(seeding.normal(seeding.key(self.seed, "jmak"), clients, 2))

    def _kept(
        self, name: str, draw: int, clients: Sequence[int], times: Tensor, wanted: int
    ) -> Batch:
        """Return some of the points that a client has measured, with their fixed noise."""
        key = seeding.key(self.seed, "jmak", name)
        noise = NOISE * seeding.normal(key, clients, len(times))
        y = simulated(self.phi(clients), times) + noise
        chosen = seeding.permutation(seeding.key(draw, name), clients, len(times))[:, :wanted]
        return Batch(times[chosen][..., None], y.gather(1, chosen))

    def _measured(self, draw: int, clients: Sequence[int]) -> tuple[Batch, Batch]:
        order = seeding.permutation(draw, clients, len(_BEGINNING))[:, : self.shots]
        early, late = _BEGINNING[order], GRID.expand(len(clients), -1)
        runs = [self._run(client) for client in clients]
        return _of_runs(runs, early), _of_runs(runs, late)

    def _run(self, client: int) -> thermal_kinetics.Run:
        return list(chain(*_laboratories(self)))[client]


def _of_runs(runs: Sequence[thermal_kinetics.Run], x: Tensor) -> Batch:
    kelvin = (500 + 10 * x).numpy()
    y = [torch.from_numpy(run.at(row)) for run, row in zip(runs, kelvin, strict=True)]
    return Batch(x[..., None], torch.stack(y))


@lru_cache(maxsize=4)
def _laboratories(scenario: Jmak) -> tuple[tuple[thermal_kinetics.Run, ...], ...]:
    """Return the runs of laboratories that train, validate and test."""
    runs = thermal_kinetics.load(scenario.data_dir)
    names = sorted({run.laboratory for run in runs})
    (order,) = seeding.permutation(seeding.key(scenario.seed, "laboratories"), [0], len(names))
    place = {names[name]: position for position, name in enumerate(order.tolist())}
    ends = [round(share * len(names)) for share in _SHARES]
    return tuple(
        tuple(run for run in runs if first <= place[run.laboratory] < last)
        for first, last in pairwise(ends)
    )
