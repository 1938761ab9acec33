"""Robot failures: what went wrong? Three recordings of each of three kinds, of a new problem.

A learning problem is a move of a robot with its own kinds of failures (`datasets.robot_failures`).
A client is an episode: three kinds of one problem, in an order of its own, so only its support says
which label is which. Test clients are those of a problem that nobody trained on, by default the
first, second, third or fourth by the seed, so that four seeds have all of them.

The published problems are no independent ones: 3 has the recordings of 2, and 5 those of 2 and 4.
With ``folds = "honest"`` nobody trains on a problem that shares a recording with the tested one,
nor on the fifth, which is made of the others. "naive" leaves out the tested problem only, as if the
five were independent, and `fedmaml audit` finds the copies. Recordings of training problems are
split by their content, 70 % train and 30 % validate, so that copies are on the same side.

Inputs are sign(v) log(1 + |v|) / 3 of the 90 forces and torques v, and mean, standard deviation and
range of each of the six channels of these.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets import robot_failures
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

WAYS = 3
INPUTS = robot_failures.CHANNELS * (robot_failures.TIMES + 3)
_TRAIN_CLIENTS, _OTHER_CLIENTS = 60, 40
_TRAINS = 0.7  # of the recordings of training problems
_SCALE = 3.0
_MADE_OF_OTHERS = 5
_META = {"inner.lr": 0.1, "inner.steps": 5, "outer.lr": 0.003, "outer.schedule": "cosine"}
_COMPARING = {"outer.lr": 0.003, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 30}  # fmt: skip


@settings
class RobotFailures(Scenario):
    """Failures of a robot in moves that nobody trained on.

    Attributes:
        seed: Determines the tested problem (seed modulo four), and all episodes.
        tested: The learning problem that nobody trained on, 1 to 4; 0: by the seed.
        folds: Who trains: "honest", or "naive", which has copies of tested recordings.
        shots: Support recordings of each kind.
        queries: Query recordings of each kind, at most: some kinds have fewer.
        hidden: Width of the hidden layer.
        data_dir: Folder with the data, see `datasets.robot_failures.load`.
    """

    about: ClassVar[str] = (
        "failures of a robot in a move never seen, three of each kind (real, UCI)"
    )
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 150, "clients": 12},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 50},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"inner.steps": 1, "outer.optimizer": "adam", "outer.lr": 0.003,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
        "protonet": _COMPARING, "matchingnet": _COMPARING,
    }  # fmt: skip

    seed: int = 0
    tested: Annotated[int, Ge(0), Le(4)] = 0
    folds: Literal["honest", "naive"] = "honest"
    shots: Annotated[int, Gt(0), Le(3)] = 3
    queries: Annotated[int, Gt(0)] = 4
    hidden: Annotated[int, Ge(1)] = 64
    data_dir: str = ""

    def problem(self) -> Problem:
        sizes = (INPUTS, self.hidden, WAYS)
        return Problem(lambda: MLP(sizes), cross_entropy, (ACCURACY,), classes=WAYS)

    def clients(self) -> dict[Split, range]:
        return numbered(_TRAIN_CLIENTS, _OTHER_CLIENTS, _OTHER_CLIENTS)

    def max_examples(self, client: int) -> int:
        return WAYS * (self.shots + self.queries)

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        at = round if split == "train" else 0
        key = seeding.key(self.seed, "robot_failures", "recordings", split, at)
        return group_by_shape({client: self._task(split, client, key) for client in clients})

    def references(self) -> tuple[Reference, ...]:
        targets = references.classes(WAYS)
        return (
            references.nearest_neighbour(targets, (1, 3)),
            references.nearest_class_mean(WAYS, "the nearest mean recording of the support"),
        )

    def training_problems(self) -> tuple[int, ...]:
        """Return the learning problems that train."""
        return _training(self.data_dir, self.tested_problem(), self.folds)

    def tested_problem(self) -> int:
        """Return the learning problem that nobody trains on."""
        return self.tested or 1 + self.seed % 4

    def _task(self, split: Split, client: int, key: int) -> Task:
        chosen = self._kinds(split, client)
        orders = [
            seeding.permutation(seeding.key(key, label), [client], len(kind))[0]
            for label, kind in enumerate(chosen)
        ]
        last = self.shots + self.queries
        parts = ((0, self.shots), (self.shots, last))
        rows = [
            [kind[order[first:end]] for kind, order in zip(chosen, orders, strict=True)]
            for first, end in parts
        ]
        return Task(*(_labelled(each) for each in rows))

    def _kinds(self, split: Split, client: int) -> list[Tensor]:
        """Return three kinds of one problem, in the client's own order."""
        if split == "test":
            problems: tuple[int, ...] = (self.tested_problem(),)
        else:
            problems = self.training_problems()
        enough = _enough(self.data_dir, problems, split, self.shots + 1)
        key = seeding.key(self.seed, "robot_failures", "kinds")
        which = int(seeding.uniform(seeding.key(key, "problem"), [client])[0] * len(enough))
        kinds = enough[which]
        order = seeding.permutation(seeding.key(key, "order"), [client], len(kinds))[0]
        return [kinds[int(place)] for place in order[:WAYS]]


@lru_cache(maxsize=16)
def _training(data_dir: str, tested: int, folds: str) -> tuple[int, ...]:
    everything = robot_failures.load(data_dir)
    others = [problem for problem in everything if problem != tested]
    if folds == "naive":
        return tuple(others)
    known = set(everything[tested].checksums())
    return tuple(
        problem
        for problem in others
        if problem != _MADE_OF_OTHERS and known.isdisjoint(everything[problem].checksums())
    )


@lru_cache(maxsize=16)
def _enough(
    data_dir: str, problems: tuple[int, ...], split: Split, fewest: int
) -> tuple[tuple[Tensor, ...], ...]:
    """Return the kinds with enough recordings of each problem that has three such kinds."""
    everything = robot_failures.load(data_dir)
    found = []
    for problem in problems:
        x, y, names = everything[problem]
        kept = torch.tensor(
            [split in ("test", _side(bytes_)) for bytes_ in everything[problem].checksums()]
        )
        kinds = [_inputs(x[kept & (y == kind)]) for kind in range(len(names))]
        found.append(tuple(kind for kind in kinds if len(kind) >= fewest))
    return tuple(kinds for kinds in found if len(kinds) >= WAYS)


def _side(recording: bytes) -> Split:
    """Return "train" or "validation", by what a recording holds."""
    share = int.from_bytes(sha256(recording).digest()[:4], "little") / 2**32
    return "train" if share < _TRAINS else "validation"


def _labelled(kinds: Sequence[Tensor]) -> Batch:
    y = torch.cat([torch.full((len(kind),), label) for label, kind in enumerate(kinds)])
    return Batch(torch.cat(list(kinds)), y)


def _inputs(recordings: Tensor) -> Tensor:
    """Return inputs float32 ``(recordings, 108)`` of int16 ``(recordings, 15, 6)``."""
    values = recordings.float()
    values = values.sign() * values.abs().log1p() / _SCALE
    span = values.amax(1) - values.amin(1)
    return torch.cat([values.flatten(1), values.mean(1), values.std(1), span], 1)
