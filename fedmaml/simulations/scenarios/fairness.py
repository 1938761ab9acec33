"""Fairness: clients are groups of people, and adapting to a group makes its error rates like all's.

COMPAS (a new arrest within two years; by race) or Adult (an income above 50,000 dollars; by sex and
race). 60 % of each group's people are a training client. Of the others, ``shots`` are the group's
support, and every test client of the group holds the same support and ``people`` of the rest as its
query: all of them adapt to the same model, and intervals resample people.

The gap of equalised odds is the largest difference between groups in true or false positive rate.
Training and adaptation add to the loss, on a client's positives and negatives,

    penalty [(mean p over positives - t1)^2 + (mean p over negatives - t0)^2]

t1 and t0 are the rates of all groups together, by the least-squares fit of all training people: it
follows exactly from sums that each group sends once, and no group needs another's people.

**Adapting per protected group means a different model per group**: disparate treatment, unlawful
for some uses. Equalised odds contradict calibration where base rates differ. COMPAS's labels are
arrests. The gap of random groups says how much of a gap is sampling noise; a reference shifts the
threshold of one pooled model per group, after Hardt, Price, Srebro. Equality of Opportunity in
Supervised Learning. NeurIPS 2016.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.figures import Figure
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import ACCURACY, CONFUSION, accuracy, confusion
from fedmaml.core.networks import LinearModel
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Task, TaskGroup, group_by_shape
from fedmaml.simulations.datasets import adult, compas
from fedmaml.simulations.datasets.moments import standardised, sums, unsound_sums
from fedmaml.simulations.dealing import in_order, numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems import equal_rates

_TRAIN = 0.6
_SOURCES = {"compas": compas, "adult": adult}
_META = {"inner.lr": 0.3, "inner.steps": 5, "outer.lr": 0.02, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.3, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.3, "adaptation.steps": 5}  # fmt: skip


@settings
class Fairness(Scenario):
    """Groups as clients: COMPAS or Adult.

    Attributes:
        seed: Determines all splits.
        data: "compas" or "adult".
        shots: Support people of a group.
        queries: Query people of a group in training.
        people: Query people of a test client.
        penalty: Weight of unequal rates in the loss.
        data_dir: Folder with the data, see `datasets.compas.load` and `datasets.adult.load`.
    """

    about: ClassVar[str] = "groups as clients; adapting means a different model per protected group"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 100},
        "local": {"rounds": 0, "inner.lr": 0.3, "inner.steps": 100},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.02,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
    }  # fmt: skip
    expected: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("support-query-overlap", "duplicates-across-clients"),
        "people whose few recorded numbers are equal are different people",
    )
    caveats: ClassVar[tuple[str, ...]] = (
        "Adapting per protected group means a different model per group: disparate treatment, "
        "unlawful for some uses.",
        "Equalised odds contradict calibration where base rates differ.",
        "The labels of COMPAS are new arrests, not new offences.",
        "Random groups have a gap, too: it is how much of a gap is sampling.",
    )

    seed: int = 0
    data: Literal["compas", "adult"] = "compas"
    shots: Annotated[int, Gt(1)] = 100
    queries: Annotated[int, Gt(0)] = 100
    people: Annotated[int, Gt(0)] = 5
    penalty: Annotated[float, Ge(0)] = 8.0
    data_dir: str = ""

    def problem(self) -> Problem:
        inputs = len(_SOURCES[self.data].FEATURES)
        metrics = (
            replace(ACCURACY, function=lambda logits, y: accuracy(logits, y[:, 0])),
            replace(CONFUSION, function=lambda logits, y: confusion(logits, y[:, 0])),
        )
        loss = partial(equal_rates.penalised, penalty=self.penalty)
        return Problem(lambda: LinearModel(inputs, 1), loss, metrics)

    def clients(self) -> dict[Split, range]:
        return numbered(len(_dealt(self).train), 0, len(_dealt(self).places))

    def statistics(self, client: int) -> Params:
        dealt = _dealt(self)
        if client < len(dealt.train):
            x, y = dealt.train[client]
        else:
            x, y = dealt.test[dealt.places[client - len(dealt.train)][0]]
        return sums(x) | equal_rates.sums_of_rates(x, y)

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        moments = ("count", "sum", "squares")
        return unsound_sums({c: {n: own[n] for n in moments} for c, own in statistics.items()})

    def max_examples(self, client: int) -> int:
        return self.shots + self.queries

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        rates = torch.tensor(equal_rates.common_rates(shared_statistics))
        return group_by_shape(
            {c: self._task(split, c, round, shared_statistics, rates) for c in clients}
        )

    def references(self) -> tuple[Reference, ...]:
        return equal_rates.references_of(self.penalty)

    def figures(self) -> tuple[Figure, ...]:
        return equal_rates.figures("group", _SOURCES[self.data].GROUPS[:2])

    def groups(self, client: int) -> Mapping[str, str]:
        place = _dealt(self).places[client - len(_dealt(self).train)]
        return {"group": _SOURCES[self.data].GROUPS[place[0]]}

    def _task(self, split: Split, client: int, round: int, totals: Params, rates: Tensor) -> Task:
        dealt = _dealt(self)
        if split == "train":
            x, y = dealt.train[client]
            draw = seeding.key(self.seed, "fairness", "split", round)
            order = seeding.permutation(draw, [client], len(y))[0]
        else:
            group, part = dealt.places[client - len(dealt.train)]
            x, y = dealt.test[group]
            first = self.shots + part * self.people
            order = torch.cat([torch.arange(self.shots), first + torch.arange(self.people)])
        x = standardised(x, totals)
        return in_order(
            x, torch.cat([y[:, None], rates.expand(len(y), 2)], 1), order, self.shots, self.queries
        )


class _Dealt(NamedTuple):
    """People of the groups that train and are evaluated, and the test clients' (group, part)."""

    train: list[tuple[Tensor, Tensor]]
    test: list[tuple[Tensor, Tensor]]
    places: list[tuple[int, int]]


@lru_cache(maxsize=4)
def _dealt(scenario: Fairness) -> _Dealt:
    source = _SOURCES[scenario.data]
    key, dealt = seeding.key(scenario.seed, "fairness", "people"), _Dealt([], [], [])
    for group, (name, (x, y)) in enumerate(source.load(scenario.data_dir).items()):
        order = seeding.permutation(key, [group], len(y))[0]
        cut = round(_TRAIN * len(y))
        parts = (len(y) - cut - scenario.shots) // scenario.people
        if parts < 1 or cut <= scenario.shots:
            raise ConfigurationError(
                f"task.shots = {scenario.shots} and task.people = {scenario.people}: group {name} "
                f"has {cut} people who train and {len(y) - cut} others; lower both"
            )
        whole = torch.from_numpy(x), torch.from_numpy(y)
        dealt.train.append((whole[0][order[:cut]], whole[1][order[:cut]]))
        dealt.test.append((whole[0][order[cut:]], whole[1][order[cut:]]))
        dealt.places.extend((group, part) for part in range(parts))
    return dealt
