"""Sky: of which class is a star? Plates, fields, surveys and unseen classes as clients.

    plates   SDSS: galaxy, star or quasar by four colours and r; a client is a plate (73 have at
             least 40 objects and two classes; 10 of one class are left out). 15 objects are known.
    fields   LINEAR: five classes of variable stars by period, amplitude, skewness and kurtosis; a
             client is one of 64 fields of the sky, with 25 known stars. The family "asas" are 20
             draws from another survey, ASAS.
    surveys  the same stars in made-up surveys: each scales and moves the features in its own way,
             half report the skewness with the other sign, half take half the period of eclipsing
             stars.
    classes  ASAS: light curves by 22 numbers; a client has four of 20 classes, in an order of its
             own, and five known stars of each. Those who test have classes that nobody trained on.

A star's colours mean the same on every plate: there is nothing to adapt to but the mix of classes,
and a forest whose votes are weighed by the support's mix is the rival to beat. In "classes" nothing
is known without adapting (chance: 1/4); the rival is the share of trees of a forest, trained on the
training classes, in which two stars fall into one leaf.

Redshift gives the class of SDSS's objects away and is not read. Sources of the data: see
`datasets.sdss`, `datasets.linear_stars`, `datasets.asas`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.figures import Figure, worst_decile
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY, BALANCED_ACCURACY
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets import linear_stars, sdss
from fedmaml.simulations.datasets.moments import standardised, sums, unsound_sums
from fedmaml.simulations.dealing import in_order
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems import light_curves, skies

_FAR = 5.0  # standard deviations; what is further away is moved there
_SHOTS, _QUERIES = 5, 6  # stars of an unseen class
_META = {"inner.lr": 0.1, "inner.steps": 5, "outer.lr": 0.01, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.3, "inner.steps": 10, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 20}  # fmt: skip


@settings
class Sky(Scenario):
    """Classes of stars on plates, in fields, in surveys, and of classes that are unseen.

    Attributes:
        seed: Determines who trains, the surveys, and all splits.
        data: What clients are, see above.
        hidden: Width of the two hidden layers.
        data_dir: Folder with the data, see `datasets.sdss.load`.
    """

    about: ClassVar[str] = "classes of stars by plate, field, survey; unseen classes (real)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 200, "clients": 16},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 50},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "adam",
                                 "outer.lr": 0.01, "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "maml": _META, "fomaml": _META, "meta_sgd": _META, "anil": _META,
        "protonet": {"outer.lr": 0.003, "outer.schedule": "cosine"},
    }  # fmt: skip

    seed: int = 0
    data: skies.Kind = "plates"
    hidden: Annotated[int, Ge(1)] = 32
    data_dir: str = ""

    def problem(self) -> Problem:
        inputs, classes = _FORMS[self.data][:2]
        sizes = (inputs, self.hidden, self.hidden, classes)
        metrics = (ACCURACY, BALANCED_ACCURACY)
        return Problem(lambda: MLP(sizes), cross_entropy, metrics, classes=classes)

    def clients(self) -> dict[Split, range]:
        return _dealt(self).clients

    def statistics(self, client: int) -> Params:
        return sums(_dealt(self).sites[client][0])

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        return unsound_sums(statistics)

    def max_examples(self, client: int) -> int:
        return sum(_FORMS[self.data][2:])

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        draw = seeding.key(self.seed, "sky", "split", split, round if split == "train" else 0)
        return group_by_shape({c: self._task(c, draw, shared_statistics) for c in clients})

    def left_out(self) -> Mapping[str, str]:
        return _dealt(self).left_out

    def references(self) -> tuple[Reference, ...]:
        classes = _FORMS[self.data][1]
        targets = references.classes(classes)
        local = (
            references.nearest_neighbour(targets, (1, 3)),
            references.nearest_class_mean(classes),
            references.random_forest(targets, trees=50, pooled=False),
        )
        if self.data == "classes":
            known = _dealt(self).known
            return (*local, references.forest_proximity(classes, partial(_scaled_all, *known)))
        return (
            references.constant(targets, "commonest class"), *local,
            references.random_forest(targets), references.forest_by_shares(classes),
        )  # fmt: skip

    def figures(self) -> tuple[Figure, ...]:
        return (worst_decile(ACCURACY),)

    def family(self, client: int) -> str:
        return "asas" if client in _dealt(self).other else ""

    def _task(self, client: int, draw: int, totals: Params) -> Task:
        x, y = _dealt(self).sites[client]
        order = seeding.permutation(draw, [client], len(y))[0]
        if self.data == "classes":
            kinds = [order[y[order] == kind] for kind in range(skies.WAYS)]
            order = torch.cat([kind[:_SHOTS] for kind in kinds]
                              + [kind[_SHOTS : _SHOTS + _QUERIES] for kind in kinds])  # fmt: skip
        shots, queries = _FORMS[self.data][2:]
        return in_order(_scaled(x, totals), y, order, shots, queries)


_FORMS = {
    "plates": (sdss.FEATURES, len(sdss.CLASSES), 15, 60),
    "fields": (4, len(linear_stars.CLASSES), 25, 80),
    "surveys": (4, len(linear_stars.CLASSES), 25, 95),
    "classes": (light_curves.FEATURES, skies.WAYS, skies.WAYS * _SHOTS, skies.WAYS * _QUERIES),
}
"""Features, classes, stars of a support and of a query, at most."""


@lru_cache(maxsize=4)
def _dealt(scenario: Sky) -> skies.Dealt:
    return skies.dealt(scenario.data, seeding.key(scenario.seed, "sky"), scenario.data_dir)


def _scaled(x: Tensor, totals: Params) -> Tensor:
    return standardised(x, totals).clamp(-_FAR, _FAR)


def _scaled_all(x: Tensor, y: Tensor, totals: Params) -> Batch:
    return Batch(_scaled(x, totals), y)
