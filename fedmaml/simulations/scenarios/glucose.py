"""Glucose: what will a person's glucose be in half an hour? 227 people who wore a sensor.

A person is a client; those who train, validate and test are different people. On a grid of 15
minutes the input is the value now and its last five changes, the target the change of the next 30
minutes, in 20 mg/dl. A new person's support are windows of the first two days, the query later
ones: no window of the query begins before the last target of the support is known. In training the
two lie before and after a moment that is drawn anew in each round.

People take part who have 96 windows in the first two days, 96 later ones and 350 in all. Personal
models help, most of all people without diabetes, for whom "as now" beats a pooled model; whether
meta-learning adds to fine-tuning is the question. Not for treatment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.figures import Figure, worst_decile, worst_group
from fedmaml.core.learner import Problem
from fedmaml.core.linear import with_ones
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import RMSE
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets import glucose
from fedmaml.simulations.datasets.suited import suited
from fedmaml.simulations.dealing import evenly, in_order, numbered
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references import linear
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems.glucose_windows import (
    AHEAD,
    CHANGES,
    SCALE,
    TWO_DAYS,
    Windows,
    lacking,
    windows,
)

_BEFORE = 190  # windows before a cut from which a training support is taken
_QUERIES = 96  # of a training task
_META = {"inner.lr": 0.1, "inner.steps": 5, "outer.lr": 0.005, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 30}  # fmt: skip


@settings
class Glucose(Scenario):
    """Glucose half an hour ahead.

    Attributes:
        seed: Determines who trains, and the moments that cut training data.
        shots: Support windows, at most, evenly over two days.
        queries: Query windows of an evaluated person, at most, evenly over the time after.
        hidden: Width of the two hidden layers.
        data_dir: Folder with the data, see `datasets.glucose.load`.
    """

    about: ClassVar[str] = "glucose in half an hour of 227 people, by two days (real, CGM)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 200, "clients": 16},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 100},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.005,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "fedrep": _AVERAGING | {"head.lr": 0.1, "head.steps": 10},
        "maml": _META, "fomaml": _META, "meta_sgd": _META, "anil": _META,
    }  # fmt: skip
    expected: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("support-query-overlap", "duplicates-across-clients"),
        "readings are whole numbers: calm glucose looks alike at different times",
    )

    seed: int = 0
    shots: Annotated[int, Gt(0), Le(TWO_DAYS)] = TWO_DAYS
    queries: Annotated[int, Gt(0)] = 300
    hidden: Annotated[int, Ge(1)] = 32
    data_dir: str = ""

    def problem(self) -> Problem:
        sizes = (1 + CHANGES, self.hidden, self.hidden, 1)
        rmse = replace(RMSE, unit="mg/dl", scale=SCALE)
        return Problem(lambda: MLP(sizes), half_squared_error, (rmse,), ordered=True)

    def clients(self) -> dict[Split, range]:
        people = len(_people(self.data_dir)[0])
        test, validation = round(people / 4), round(0.12 * people)
        return numbered(people - test - validation, validation, test)

    def statistics(self, client: int) -> Params:
        person = self._person(client)
        ones = with_ones(person.x)
        return {"gram": (ones.T @ ones).flatten(), "moment": ones.T @ person.y}

    def max_examples(self, client: int) -> int:
        return self.shots + _QUERIES

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape({client: self._task(split, client, round) for client in clients})

    def left_out(self) -> Mapping[str, str]:
        return _people(self.data_dir)[1]

    def references(self) -> tuple[Reference, ...]:
        def as_now(_clients: TrainingClients) -> Adapt:
            return lambda _support: lambda x: torch.zeros_like(x[:, :1])

        def pooled(clients: TrainingClients) -> Adapt:
            weights = _pooled(clients.statistics)
            return lambda _support: lambda x: (with_ones(x).double() @ weights).to(x.dtype)

        def personal(clients: TrainingClients, weight: float) -> Adapt:
            return linear.ridge_around(with_ones, _pooled(clients.statistics), weight)

        about = "ridge regression on the person's windows, to the pooled coefficients"
        grid = tuple({"weight": weight} for weight in (3.0, 30.0, 300.0))
        return (
            Reference("as now", "no change", as_now),
            Reference("pooled linear", "least squares on all training people's sums", pooled),
            Reference("ridge to the pooled linear", about, personal, grid=grid),
            references.gradient_boosting(references.NUMBERS),
        )

    def figures(self) -> tuple[Figure, ...]:
        rmse = self.problem().metrics[0]
        return worst_decile(rmse), worst_group(rmse, "diabetes")

    def groups(self, client: int) -> Mapping[str, str]:
        person = self._person(client)
        return {"diabetes": person.diabetes, "cohort": person.cohort}

    def _task(self, split: Split, client: int, round: int) -> Task:
        person = self._person(client)
        if split == "train":
            draw = seeding.key(self.seed, "glucose", "cut", round)
            last = len(person.y) - _QUERIES - AHEAD
            share = float(seeding.uniform(draw, [client], 1)[0, 0])
            cut = _BEFORE + int(share * (last - _BEFORE + 1))
            before = torch.arange(cut - _BEFORE, cut)
            after = torch.arange(cut + AHEAD, cut + AHEAD + _QUERIES)
        else:
            cut = int((person.time < TWO_DAYS).sum())
            before, after = torch.arange(cut), torch.arange(cut + AHEAD, len(person.y))
        chosen = torch.cat([evenly(before, self.shots), evenly(after, self.queries)])
        shots = min(self.shots, len(before))
        return in_order(person.x, person.y, chosen, shots, self.queries)

    def _person(self, client: int) -> Windows:
        people, _ = _people(self.data_dir)
        order = seeding.permutation(seeding.key(self.seed, "glucose", "people"), [0], len(people))
        return people[int(order[0, client])]


@lru_cache(maxsize=4)
def _people(data_dir: str) -> tuple[tuple[Windows, ...], dict[str, str]]:
    everyone = {person.name: windows(person) for person in glucose.load(data_dir)}
    enough, left_out = suited(everyone, lacking)
    return tuple(enough.values()), left_out


def _pooled(totals: Params) -> Tensor:
    columns = len(totals["moment"])
    return torch.linalg.solve(totals["gram"].view(columns, columns), totals["moment"][:, None])
