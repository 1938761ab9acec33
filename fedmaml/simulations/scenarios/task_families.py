"""Task families: is it a sine, a line, a step or a parabola? And does it help to know?

A client is a device with a function of one family, measured at random places of [-1, 1] with noise
.1:

    sine      a sin(w x + p)         step       a sign(x - b) + c
    line      a x + b                parabola   a x^2 + b x + c

``target = "family"``: an example is a set of ``points`` measurements, its class the family; a
device holds sets of all four. Nothing differs between devices, so the network (DeepSets: the same
layers for each point, then mean and maximum) needs no adaptation. ``target = "value"``: a device
has one function, ``points`` measurements of it are the support, and others the query. With
``only`` all devices have one family: what a device gains by its family's own start is the
difference to a run without.

Zaheer et al. Deep Sets. NeurIPS 2017. arXiv:1703.06114. Made-up functions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from fedmaml.core import seeding
from fedmaml.core.figures import Figure, worst_group
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy, squared_error
from fedmaml.core.metrics import ACCURACY, MEAN_SQUARED_ERROR
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.dealing import first_as_support, numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

FAMILIES = ("sine", "line", "step", "parabola")
_NOISE = 0.1
_SETS, _QUERIES = 16, 20  # of a device: sets on either side, query measurements
_META = {"inner.lr": 0.01, "inner.steps": 1, "outer.lr": 0.003, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "adam", "outer.lr": 0.003,
              "outer.schedule": "cosine", "adaptation.lr": 0.01, "adaptation.steps": 5}  # fmt: skip


class DeepSets(nn.Module):
    """The same two layers for each point, their mean and maximum, and a linear head."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.middle = nn.Linear(2 * hidden, hidden)
        self.head = nn.Linear(hidden, len(FAMILIES))

    def forward(self, x: Tensor) -> Tensor:
        """Map sets of points ``(sets, points, 2)`` to logits ``(sets, 4)``."""
        points = self.body(x)
        both = torch.cat([points.mean(-2), points.amax(-2)], -1)
        output: Tensor = self.head(torch.relu(self.middle(both)))
        return output


@settings
class TaskFamilies(Scenario):
    """Functions of four families.

    Attributes:
        seed: Determines functions and measurements.
        train_clients: Devices that train.
        validation_clients: Devices for evaluation during training.
        test_clients: Devices for the final evaluation.
        target: The "family" of a set of points, or the "value" of a device's function.
        points: Measurements of a set, or of a device's support.
        only: The one family of all devices; "" for all four, in turn.
        hidden: Width of the hidden layers.
    """

    about: ClassVar[str] = "four families of functions: recognise them, or learn a start for each"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 600, "clients": 20},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 100},
        "fedavg": _AVERAGING | {"outer.optimizer": "sgd", "outer.lr": 1.0,
                                "outer.schedule": "constant"},
        "fedadam": _AVERAGING,
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
    }  # fmt: skip
    only_with: ClassVar[Mapping[str, tuple[str, tuple[Any, ...]]]] = {
        "only": ("target", ("value",))
    }

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 1000
    validation_clients: Annotated[int, Ge(0)] = 100
    test_clients: Annotated[int, Gt(0)] = 200
    target: Literal["family", "value"] = "family"
    points: Annotated[int, Gt(0)] = 5
    only: Literal["", "sine", "line", "step", "parabola"] = ""
    hidden: Annotated[int, Ge(1)] = 64

    def problem(self) -> Problem:
        hidden = self.hidden
        if self.target == "family":
            count = len(FAMILIES)
            return Problem(lambda: DeepSets(hidden), cross_entropy, (ACCURACY,), classes=count)
        return Problem(lambda: MLP((1, hidden, hidden, 1)), squared_error, (MEAN_SQUARED_ERROR,))

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return 2 * _SETS if self.target == "family" else self.points + _QUERIES

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        key = seeding.key(self.seed, "task_families")
        draw = seeding.key(key, split, round if split == "train" else 0)
        if self.target == "family":
            family = torch.arange(2 * _SETS).remainder(len(FAMILIES)).expand(len(clients), -1)
            numbers = seeding.uniform(seeding.key(draw, "functions"), clients, 2 * _SETS, 3)
            x, y = measured(draw, clients, family[..., None], numbers[:, :, None], self.points)
            return [first_as_support(clients, torch.stack([x, y], -1), family, _SETS)]
        names = [FAMILIES.index(self.groups(client)["family"]) for client in clients]
        numbers = seeding.uniform(seeding.key(key, "functions"), clients, 1, 3)
        count = self.points + _QUERIES
        x, y = measured(draw, clients, torch.tensor(names)[:, None], numbers, count)
        return [first_as_support(clients, x[..., None], y[..., None], self.points)]

    def references(self) -> tuple[Reference, ...]:
        if self.target == "family":
            classes = references.classes(len(FAMILIES))
            return (references.nearest_neighbour(classes), references.random_forest(classes))
        return (
            references.constant(references.NUMBERS),
            references.nearest_neighbour(references.NUMBERS, (1, 2)),
        )

    def figures(self) -> tuple[Figure, ...]:
        if self.target == "family":
            return ()
        return (worst_group(MEAN_SQUARED_ERROR, "family"),)

    def groups(self, client: int) -> Mapping[str, str]:
        if self.target == "family":
            return {}
        return {"family": self.only or FAMILIES[client % len(FAMILIES)]}


def measured(
    key: int, clients: Sequence[int], family: Tensor, numbers: Tensor, points: int
) -> tuple[Tensor, Tensor]:
    """Return places x and noisy values y, float64 ``(clients, ..., points)``.

    Args:
        key: Of the places and the noise.
        clients: Client numbers.
        family: Positions in `FAMILIES`; broadcast against x.
        numbers: Uniform draws (0, 1) of the functions' a, b and c, on a last axis of 3.
        points: Measurements of each function.
    """
    shape = (*numbers.shape[1:-2], points)
    x = 2 * seeding.uniform(seeding.key(key, "places"), clients, *shape) - 1
    noise = _NOISE * seeding.normal(seeding.key(key, "noise"), clients, *shape)
    return x, values(x, family, numbers) + noise


def values(x: Tensor, family: Tensor, numbers: Tensor) -> Tensor:
    """Return the functions' values at x; arguments as in `measured`."""
    a, b, c = numbers.unbind(-1)
    size = 0.5 + a  # of .5 to 1.5
    tilt, height = 2 * b - 1, 2 * c - 1
    signed = torch.where(c < 0.5, -size, size)
    found = (
        size * torch.sin((3 + 3 * b) * x + 2 * math.pi * c),
        signed * x + tilt,
        signed * torch.where(x > 0.6 * tilt, 1.0, -1.0) + 0.5 * tilt,
        2 * signed * x**2 + tilt * x - height,
    )
    return torch.stack(found, -1).gather(-1, family.expand_as(x)[..., None])[..., 0]
