"""Malaria: is a red blood cell infected? Five cells of each kind of a patient who was never seen.

A patient with at least ten cells of both kinds is a client; patients who train, validate and test
are different people. Images are 14 x 14 pixels, less the image's median (the stain), times six.

An infected cell looks alike in every patient, so a pooled model may do as well without any support.
``flip = True`` draws the order of the two classes for each task anew: then only the support says
which is which, and what a method keeps of its accuracy is the proof that it reads it. Not for
diagnosis. Patients with one kind of cells only (the 50 healthy ones, and others) are left out.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional as F

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.figures import Figure, worst_decile
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets import malaria
from fedmaml.simulations.datasets.suited import suited
from fedmaml.simulations.dealing import deal
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

KINDS = ("healthy", "infected")
CLASSES = len(KINDS)
_CONTRAST = 6.0
_META = {"inner.lr": 0.01, "inner.steps": 5, "outer.lr": 0.003, "outer.schedule": "cosine"}
_COMPARING = {"outer.lr": 0.003, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.05, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.01, "adaptation.steps": 5}  # fmt: skip


class Cells(nn.Module):
    """Three convolutions of 3x3 with ReLU and 2x2 pooling, then a linear head."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        widths = (1, filters, filters, 2 * filters)
        self.body = nn.Sequential(
            *(
                layer
                for i in range(3)
                for layer in (nn.Conv2d(widths[i], widths[i + 1], 3, padding=1), nn.ReLU(),
                              nn.MaxPool2d(2))
            ),
            nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(2 * filters, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(cells, 1, 14, 14)`` to logits ``(cells, 2)``."""
        output: Tensor = self.head(self.body(x))
        return output


@settings
class Malaria(Scenario):
    """Blood cells of patients who were never seen.

    Attributes:
        seed: Determines who trains, and the cells.
        shots: Support cells of each kind.
        queries: Query cells of each kind.
        flip: Whether the order of the classes is drawn for each task.
        filters: Channels of the first two convolutions.
        data_dir: Folder with the data, see `datasets.malaria.load`.
    """

    about: ClassVar[str] = "infected blood cells by patient, five of each kind known (real, NLM)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 400, "clients": 8},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 50},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.003,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
        "protonet": _COMPARING, "snail": _COMPARING,
    }  # fmt: skip

    seed: int = 0
    shots: Annotated[int, Gt(0)] = 5
    queries: Annotated[int, Gt(0)] = 5
    flip: bool = False
    filters: Annotated[int, Ge(1)] = 16
    data_dir: str = ""

    def problem(self) -> Problem:
        filters = self.filters
        return Problem(lambda: Cells(filters), cross_entropy, (ACCURACY,), classes=CLASSES)

    def clients(self) -> dict[Split, range]:
        return deal(len(_patients(self.data_dir, self.shots + self.queries)[0]))

    def max_examples(self, client: int) -> int:
        return CLASSES * (self.shots + self.queries)

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        at = round if split == "train" else 0
        key = seeding.key(self.seed, "malaria", "cells", split, at)
        return group_by_shape({client: self._task(client, key) for client in clients})

    def left_out(self) -> Mapping[str, str]:
        return _patients(self.data_dir, self.shots + self.queries)[1]

    def references(self) -> tuple[Reference, ...]:
        targets = references.classes(CLASSES)
        return (
            references.nearest_neighbour(targets, (1, 3)),
            references.nearest_class_mean(CLASSES, "the nearest mean image of the support"),
            references.random_forest(targets),
        )

    def figures(self) -> tuple[Figure, ...]:
        return (worst_decile(ACCURACY),)

    def _task(self, client: int, key: int) -> Task:
        x, y = self._patient(client)
        order = seeding.permutation(key, [client], len(y))[0]
        flipped = self.flip and bool(seeding.uniform(seeding.key(key, "flip"), [client])[0] < 0.5)
        kinds = [order[y[order] == kind][: self.shots + self.queries] for kind in range(CLASSES)]
        rows = [torch.cat([kind[: self.shots] for kind in kinds]),
                torch.cat([kind[self.shots :] for kind in kinds])]  # fmt: skip
        return Task(*(Batch(x[part], 1 - y[part] if flipped else y[part]) for part in rows))

    def _patient(self, client: int) -> tuple[Tensor, Tensor]:
        patients, _ = _patients(self.data_dir, self.shots + self.queries)
        key = seeding.key(self.seed, "malaria", "patients")
        return patients[int(seeding.permutation(key, [0], len(patients))[0, client])]


@lru_cache(maxsize=4)
def _patients(
    data_dir: str, fewest: int
) -> tuple[tuple[tuple[Tensor, Tensor], ...], dict[str, str]]:
    """Return images float32 ``(cells, 1, 14, 14)`` and labels of the patients who have enough.

    The others follow by name, with the reason.
    """

    def lacking(cells: tuple[Tensor, Tensor]) -> str:
        for kind, count in zip(KINDS, cells[1].bincount(minlength=CLASSES).tolist(), strict=True):
            if count < fewest:
                return f"fewer than {fewest} {kind} cells" if count else f"no {kind} cells"
        return ""

    everyone = malaria.load(data_dir)
    enough, left_out = suited(everyone, lacking)
    if len(enough) < 3:
        raise ConfigurationError(
            f"task.shots and task.queries need {fewest} cells of each kind; {len(enough)} of "
            f"{len(everyone)} patients have them: lower both"
        )
    return tuple((_pixels(x), y) for x, y in enough.values()), left_out


def _pixels(images: Tensor) -> Tensor:
    x = images[:, None].float() / 255
    x = x - x.flatten(1).median(1).values[:, None, None, None]
    return _CONTRAST * F.avg_pool2d(x, 2)
