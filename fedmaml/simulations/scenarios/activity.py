"""Activity: what is a person doing, from ten seconds of the phone in the pocket?

WISDM: 36 people, six activities, 43 statistics of the accelerometer for every window. A person is a
client; those who train, those of validation and those of the test are different people, and the
scales come from the people who train, by sums that each sends once. A new person labels ``shots``
windows of their own. People move differently, so adapting to a person gains much; whether
meta-learning adds to fine-tuning a pooled model is the question.

Neighbouring windows of one recording are alike. With ``support="random"`` some of them are in the
support and others in the query; ``support="first"`` takes the first windows of the recording.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY, BALANCED_ACCURACY
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets import wisdm
from fedmaml.simulations.datasets.moments import standardised, sums, unsound_sums
from fedmaml.simulations.dealing import deal, in_order
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

CLASSES = len(wisdm.ACTIVITIES)
_FAR = 5.0  # standard deviations; what is further away is moved there
_META = {"inner.lr": 0.1, "inner.steps": 5, "outer.lr": 0.005, "outer.schedule": "cosine"}
_EMBEDDING = {"outer.lr": 0.005, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 50}  # fmt: skip


@settings
class Activity(Scenario):
    """Activities of 36 people by the accelerometer of a phone.

    Attributes:
        seed: Determines who trains, and all splits.
        shots: Support windows of a person.
        queries: Query windows of a person, at most.
        support: "random" windows of a person, or the "first" of the recording.
        hidden: Width of the hidden layer.
        data_dir: Folder with the data, see `datasets.wisdm.load`.
    """

    about: ClassVar[str] = "activity of 36 people by the accelerometer of a phone (real, WISDM)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 200, "clients": 20},
        "local": {"rounds": 0, "inner.lr": 0.3, "inner.steps": 100},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.005,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "fedrep": _AVERAGING | {"head.lr": 0.1, "head.steps": 10},
        "family:initialisation": _META,
        "imaml": _META | {"inner.lr": 0.1, "inner.steps": 10, "lam": 1.0},
        "cavia": _META | {"inner.lr": 1.0},
        "family:personalised": _AVERAGING, "fedbabu": _AVERAGING,
        "family:metric": _EMBEDDING, "family:model": _EMBEDDING, "r2d2": _EMBEDDING,
    }  # fmt: skip

    seed: int = 0
    shots: Annotated[int, Gt(1)] = 20
    queries: Annotated[int, Gt(0)] = 60
    support: Literal["random", "first"] = "random"
    hidden: Annotated[int, Ge(1)] = 32
    data_dir: str = ""

    def problem(self) -> Problem:
        sizes = (wisdm.FEATURES, self.hidden, CLASSES)
        metrics = (ACCURACY, BALANCED_ACCURACY)
        return Problem(lambda: MLP(sizes), cross_entropy, metrics, classes=CLASSES)

    def clients(self) -> dict[Split, range]:
        return deal(len(wisdm.load(self.data_dir)))

    def statistics(self, client: int) -> Params:
        return sums(self._person(client)[0])

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        return unsound_sums(statistics)

    def max_examples(self, client: int) -> int:
        return self.shots + self.queries

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape(
            {client: self._task(split, client, round, shared_statistics) for client in clients}
        )

    def references(self) -> tuple[Reference, ...]:
        targets = references.classes(CLASSES)
        return (
            references.constant(targets, "commonest activity"),
            references.nearest_neighbour(targets, (1, 3)),
            references.random_forest(targets, pooled=False),
            references.random_forest(targets),
        )

    def _task(self, split: Split, client: int, round: int, shared_statistics: Params) -> Task:
        x, y = self._person(client)
        x = standardised(x, shared_statistics).clamp(-_FAR, _FAR)
        windows = torch.arange(len(y))
        at = round if split == "train" else 0
        draw = seeding.key(self.seed, "activity", "split", split, at)
        order = seeding.permutation(draw, [client], len(y))[0]
        if self.support == "first":
            order = torch.cat([windows[: self.shots], order[order >= self.shots]])
        return in_order(x, y, order, self.shots, self.queries)

    def _person(self, client: int) -> tuple[Tensor, Tensor]:
        people = wisdm.load(self.data_dir)
        order = seeding.permutation(seeding.key(self.seed, "activity", "people"), [0], len(people))
        return people[int(order[0, client])]
