"""Sky anomaly: which stars are of no class that anybody knows?

    asas    22 numbers of a light curve. Of the 20 classes with at least 13 stars, 12 are known,
            four are the anomalies of validation and four those of the test, which also has the 26
            stars of the eight rare classes; the family "rare" has these alone.
    linear  eight numbers of a variable star. Of five classes ``unseen`` is the test's anomaly, the
            one after it that of validation, and three are known; at most 800 stars of each.

Half of a known class's stars are the archive, on which everything trains and which an observatory
has as its support. Its query are new stars, of known classes and of others: 15 % of the known stars
validate, 35 % test, in parts that share no star. No star of a query trained anything, scales
included; a support is the archive that trained, as a library of prototypes is.

An anomaly has a label of its own, the last, which no network ever sees: a network's score is minus
its largest logit of a known class; with ProtoNet this is the distance to the nearest prototype.
"auroc" is the probability that an anomaly scores above a known star, ties counted half.

Trap: delta Scuti are defined by their short periods, and the period alone finds all of them (AUROC
1), so every table has the best single feature. Data: `datasets.asas`, `datasets.linear_stars`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Task, TaskGroup, group_by_shape
from fedmaml.simulations.datasets import linear_stars
from fedmaml.simulations.datasets.moments import standardised, sums, unsound_sums
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems import novelty, star_archive

_TRAIN_CLIENTS = 100
_FAR = 5.0  # standard deviations; what is further away is moved there
_META = {"inner.lr": 0.2, "inner.steps": 5, "outer.lr": 0.003, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 50}  # fmt: skip


@settings
class SkyAnomaly(Scenario):
    """Stars of classes that nobody trained on.

    Attributes:
        seed: Determines which classes are known, and all splits.
        data: "asas" or "linear".
        unseen: Class of LINEAR that is the anomaly.
        shots: Support stars of each class in training; an evaluated client has the whole archive.
        hidden: Width of the hidden layer; the embedding is half as wide.
        data_dir: Folder with the data, see `datasets.asas.load`.
    """

    about: ClassVar[str] = "stars of classes never seen, by distance to known ones (real, ASAS)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 100, "clients": 8},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 50},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"inner.steps": 1, "adaptation.lr": 0.02, "outer.optimizer": "adam",
                                 "outer.lr": 0.003, "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "maml": _META, "fomaml": _META, "meta_sgd": _META, "anil": _META,
        "protonet": {"outer.lr": 0.003}, "matchingnet": {"outer.lr": 0.003},
    }  # fmt: skip
    expected: ClassVar[Mapping[str, str]] = {
        "duplicates-across-clients": "the archive of known stars is everybody's support; no star "
        "of a query trained"
    }
    only_with: ClassVar[Mapping[str, tuple[str, tuple[Any, ...]]]] = {
        "unseen": ("data", ("linear",))
    }

    seed: int = 0
    data: Literal["asas", "linear"] = "asas"
    unseen: Literal["RR_Lyrae_c", "contact_binary", "Algol_like", "delta_Scuti_SX_Phe"] = (
        "Algol_like"
    )
    shots: Annotated[int, Gt(0)] = 4
    hidden: Annotated[int, Ge(2)] = 64
    data_dir: str = ""

    def problem(self) -> Problem:
        archive = _dealt(self).archive
        known = len(archive)
        sizes = (archive[0].shape[1], self.hidden, self.hidden // 2, known + 1)
        metrics = (
            Metric("auroc", "1", "higher", 0.0, novelty.auroc, least=0, most=1),
            Metric("precision_at_20", "1", "higher", 0.0, novelty.precision_at_20, least=0, most=1),
        )
        return Problem(lambda: MLP(sizes), cross_entropy, metrics, classes=known + 1)

    def clients(self) -> dict[Split, range]:
        dealt = _dealt(self)
        largest = max(map(len, dealt.archive))
        if self.shots >= largest:
            raise ConfigurationError(
                f"task.shots = {self.shots}: no class has so many stars and one more to query; at "
                f"most {largest - 1}"
            )
        return numbered(_TRAIN_CLIENTS, len(dealt.validation), len(dealt.test))

    def statistics(self, client: int) -> Params:
        return sums(torch.cat(_dealt(self).archive))

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        return unsound_sums(statistics)

    def max_examples(self, client: int) -> int:
        return 2 * self.shots * len(_dealt(self).archive)

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        draw = seeding.key(self.seed, "sky_anomaly", split, round if split == "train" else 0)
        tasks = {client: self._task(split, client, draw) for client in clients}
        return group_by_shape(
            {client: _scaled(task, shared_statistics) for client, task in tasks.items()}
        )

    def references(self) -> tuple[Reference, ...]:
        dealt = _dealt(self)
        period = linear_stars.COLUMNS.index("logP") if self.data == "linear" else None
        return novelty.references_of(len(dealt.archive), dealt.archive[0].shape[1], period)

    def family(self, client: int) -> str:
        return "rare" if client in self.clients()["test"][star_archive.TEST_PARTS :] else ""

    def _task(self, split: Split, client: int, draw: int) -> Task:
        dealt = _dealt(self)
        orders = [
            seeding.permutation(seeding.key(draw, kind), [client], len(stars))[0]
            for kind, stars in enumerate(dealt.archive)
        ]
        shuffled = [stars[order] for stars, order in zip(dealt.archive, orders, strict=True)]
        if split == "train":
            first, last = self.shots, 2 * self.shots
            return Task(
                star_archive.labelled([stars[:first] for stars in shuffled]),
                star_archive.labelled([stars[first:last] for stars in shuffled]),
            )
        parts = (*dealt.validation, *dealt.test)
        return Task(star_archive.labelled(shuffled), parts[client - _TRAIN_CLIENTS])


@lru_cache(maxsize=4)
def _dealt(scenario: SkyAnomaly) -> star_archive.Dealt:
    key = seeding.key(scenario.seed, "sky_anomaly")
    if scenario.data == "linear":
        return star_archive.of_linear(scenario.unseen, key, scenario.data_dir)
    return star_archive.of_asas(key, scenario.data_dir)


def _scaled(task: Task, totals: Params) -> Task:
    parts = (standardised(batch.x, totals).clamp(-_FAR, _FAR) for batch in task)
    return Task(*(batch._replace(x=x) for batch, x in zip(task, parts, strict=True)))
