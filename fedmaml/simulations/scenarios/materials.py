"""Materials: the formation energy of perovskites of a family that nobody has seen, by ten of it.

A client is a family of anions and one cation p; its 52 examples are the partners q, the target is
the formation energy of the more stable order of both cations, in units of the training tasks'
standard deviation. Families that train, validate and test are different ones: the test family is
number ``seed`` of seven, the validation family the third after it. A compound (p, q) is in the
tasks of both cations, so tasks of a family depend on each other: believe intervals over seeds.

Inputs are 12 numbers each of p, q, the anions' mean, |p - q|, and the compound's mean. ``network``
"mlp" takes them all; "graph" sees three nodes, p, q and the anions, which send messages to each
other, and knows that the order of p and q is of no importance.

Castelli et al. Energy Environ. Sci. 5, 2012, 9034; see `datasets.perovskites`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from fedmaml.core import seeding
from fedmaml.core.figures import Figure, worst_decile
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import MAE
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.datasets import elements, perovskites
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_CATIONS = 52
_VALIDATION = 3  # families after the test family
_TRAINING_QUERIES = 15
_OF_AN_ELEMENT = len(elements.FEATURES)
_META = {"inner.lr": 0.01, "inner.steps": 5, "outer.lr": 0.003, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.03, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.01, "adaptation.steps": 20}  # fmt: skip


class CompositionGraph(nn.Module):
    """Three nodes, p, q and the anions; two rounds of messages from the mean of all nodes.

    h <- relu(A h + B mean h),     y = C mean h
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        sizes = (_OF_AN_ELEMENT, hidden, hidden)
        self.own = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.mean = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in pairwise(sizes))
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(compounds, 60)``, of which it sees the first 36, to ``(compounds, 1)``."""
        h = x[:, : 3 * _OF_AN_ELEMENT].reshape(len(x), 3, _OF_AN_ELEMENT)
        for own, mean in zip(self.own, self.mean, strict=True):
            h = torch.relu(own(h) + mean(h.mean(1, keepdim=True)))
        output: Tensor = self.head(h.mean(1))
        return output


@settings
class Materials(Scenario):
    """Perovskites of an unseen family of anions.

    Attributes:
        seed: Chooses the test family, modulo 7, and draws support sets.
        shots: Measured compounds of a task.
        network: "mlp" or "graph".
        hidden: Width of its two hidden layers.
        data_dir: Folder with the data, see `datasets.perovskites.load`.
    """

    about: ClassVar[str] = "formation energy of perovskites of an unseen family (real, DFT)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 480, "clients": 12},
        "local": {"rounds": 0, "inner.lr": 0.03, "inner.steps": 100},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"inner.lr": 0.01, "outer.optimizer": "adam", "outer.lr": 0.01,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"adaptation.lr": 0.003, "adaptation.steps": 50},
        "fedrep": _AVERAGING | {"inner.lr": 0.01, "head.lr": 0.01, "head.steps": 10},
        "maml": _META, "fomaml": _META, "anil": _META,
        "meta_sgd": _META | {"inner.lr": 0.003, "outer.lr": 0.01},
        "ridge_head": {"outer.lr": 0.01, "outer.schedule": "cosine", "lam": 100.0},
        "anp": {"outer.lr": 0.01, "outer.schedule": "cosine"},
    }  # fmt: skip

    seed: int = 0
    shots: Annotated[int, Gt(0), Le(30)] = 10
    network: Literal["mlp", "graph"] = "mlp"
    hidden: Annotated[int, Ge(1)] = 64
    data_dir: str = ""

    def problem(self) -> Problem:
        mae = replace(MAE, unit="eV", scale=_deviation)
        network = (
            partial(CompositionGraph, self.hidden)
            if self.network == "graph"
            else partial(MLP, (5 * _OF_AN_ELEMENT, self.hidden, self.hidden, 1))
        )
        return Problem(network, half_squared_error, (mae,))

    def clients(self) -> dict[Split, range]:
        families = len(perovskites.FAMILIES)
        return numbered((families - 2) * _CATIONS, _CATIONS, _CATIONS)

    def statistics(self, client: int) -> Params:
        y = self._compounds(client).y
        return {"energies": torch.stack([torch.ones_like(y), y, y.square()], 1).sum(0)}

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        return {
            client: f"name {sums['energies'][0]:g} compounds, not {_CATIONS}"
            for client, sums in statistics.items()
            if sums["energies"][0] != _CATIONS
        }

    def max_examples(self, client: int) -> int:
        return self.shots + _TRAINING_QUERIES

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        draw = seeding.key(self.seed, "materials", split, round if split == "train" else 0)
        order = seeding.permutation(draw, clients, _CATIONS)
        mean, deviation = _mean(shared_statistics), _deviation(shared_statistics)
        compounds = [self._compounds(client) for client in clients]
        x = torch.stack([own.x[rows] for own, rows in zip(compounds, order, strict=True)])
        y = torch.stack([own.y[rows] for own, rows in zip(compounds, order, strict=True)])
        y = (y - mean) / deviation
        end = self.shots + _TRAINING_QUERIES if split == "train" else _CATIONS
        support = Batch(x[:, : self.shots], y[:, : self.shots])
        query = Batch(x[:, self.shots : end], y[:, self.shots : end])
        return [TaskGroup(tuple(clients), Task(support, query))]

    def references(self) -> tuple[Reference, ...]:
        numbers = references.NUMBERS
        return (
            references.constant(numbers, "mean of the support"),
            references.similarity(numbers, (3.0, 10.0, 30.0)),
            references.ridge(weights=(1.0, 10.0, 100.0)),
            references.gradient_boosting(numbers, 300),
            references.corrected_boosting(300, (10.0, 30.0, 100.0, 300.0)),
        )

    def figures(self) -> tuple[Figure, ...]:
        return (worst_decile(self.problem().metrics[0]),)

    def groups(self, client: int) -> Mapping[str, str]:
        family, cation = self._names(client)
        return {"anions": family, "cation": cation}

    def _names(self, client: int) -> tuple[str, str]:
        """Return family and cation of a client; training families first, the test family last."""
        families, test = list(perovskites.FAMILIES), self.seed % len(perovskites.FAMILIES)
        held = [families[(test + _VALIDATION) % len(families)], families[test]]
        ordered = [family for family in families if family not in held] + held
        cations, _ = perovskites.load(self.data_dir)
        return ordered[client // _CATIONS], cations[client % _CATIONS]

    def _compounds(self, client: int) -> Batch:
        return compounds(*self._names(client), self.data_dir)


@lru_cache(maxsize=512)
def compounds(family: str, cation: str, data_dir: str) -> Batch:
    """Return inputs and energies in eV of all partners of a cation, float64."""
    cations, energies = perovskites.load(data_dir)
    of = elements.standardised()
    p, q = of[cation].expand(len(cations), -1), torch.stack([of[each] for each in cations])
    anions = torch.stack([of[each] for each in perovskites.FAMILIES[family]]).mean(0)
    whole = (p + q + 3 * anions) / 5
    x = torch.cat([p, q, anions.expand_as(p), (p - q).abs(), whole], 1)
    return Batch(x, energies[family][cations.index(cation)])


def _mean(totals: Params) -> Tensor:
    count, energies, _ = totals["energies"]
    return energies / count


def _deviation(totals: Params) -> float:
    count, energies, squares = totals["energies"].tolist()
    return float((squares / count - (energies / count) ** 2) ** 0.5)
