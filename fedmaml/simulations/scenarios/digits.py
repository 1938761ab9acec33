"""Digits: many cheap keypads, each wired by hand. Real images, no download.

The 1,797 handwritten digits (8x8) of `datasets.digits` are distributed to devices. Each device
has a sensor of its own (gain, offset, noise) and, in each of the five wire pairs (0,1) (2,3) ..
(8,9), the two wires are crossed with probability ``cross``: the wired label is the true one. No
pooled model can know the wiring; five bits must be learned from the support set. With ``cross = 0``
labels mean the same everywhere, and adaptation has little to gain: this is the counter-example.

Images of train, validation and test devices come from disjoint pools (1/2, 1/6, 1/3 of all). For
evaluation a device has ``shots`` support and ``queries`` query images of each class. In training
all its images are split again every round, at random, unless ``resplit`` is off. The split is
random, not even by class: if every support set is even, adaptation undoes any common shift of the
logits, nothing holds the unadapted model in place, and FOMAML loses .06 of accuracy (measured).

Data: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (test part).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.datasets import digits as dataset
from fedmaml.simulations.dealing import first_as_support, numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import SPLITS, Recipes, Scenario, Split

CLASSES = 10
_META = {"inner.lr": 0.2, "inner.steps": 5, "outer.lr": 0.01, "outer.schedule": "cosine"}
_EMBEDDING = {"outer.lr": 0.01, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.2, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 30}  # fmt: skip


@settings
class Digits(Scenario):
    """Handwritten digits on crossed keypads.

    Attributes:
        seed: Determines pools, devices and splits.
        train_clients: Devices that train.
        validation_clients: Devices for evaluation during training.
        test_clients: Devices for the final evaluation.
        shots: Support images per class.
        queries: Query images per class.
        cross: Probability that a wire pair is crossed.
        resplit: Whether training devices split their images anew in every round.
        skew: Whether devices hold the classes unevenly (Dirichlet(0.5)) instead of evenly.
    """

    about: ClassVar[str] = "handwritten digits on 120 keypads with crossed wires (real, embedded)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 150, "clients": 20},
        "local": {"rounds": 0, "inner.lr": 0.5, "inner.steps": 200},
        "fedavg": _AVERAGING,
        "fedadam": {"rounds": 300, "inner.lr": 0.1, "inner.steps": 10, "outer.optimizer": "adam",
                    "outer.lr": 0.01, "outer.schedule": "cosine", "adaptation.lr": 0.1,
                    "adaptation.steps": 100},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "fedrep": _AVERAGING | {"head.lr": 0.2, "head.steps": 10},
        "family:initialisation": _META,
        "imaml": _META | {"inner.lr": 0.1, "inner.steps": 10, "lam": 1.0},
        "cavia": _META | {"inner.lr": 1.0},
        "family:personalised": _AVERAGING, "pfedme": {"inner.lr": 0.2, "lam": 1.0, "local.lr": 0.1},
        "per_fedavg_fo": {"inner.steps": 1, "local.lr": 0.2}, "fedbabu": _AVERAGING,
        "family:metric": _EMBEDDING, "family:model": _EMBEDDING, "r2d2": _EMBEDDING,
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 60
    validation_clients: Annotated[int, Ge(0)] = 20
    test_clients: Annotated[int, Gt(0)] = 40
    shots: Annotated[int, Gt(0)] = 2
    queries: Annotated[int, Gt(0)] = 3
    cross: Annotated[float, Ge(0), Le(1)] = 0.3
    resplit: bool = True
    skew: bool = False

    def problem(self) -> Problem:
        return Problem(lambda: MLP((64, 32, CLASSES)), cross_entropy, (ACCURACY,), classes=CLASSES)

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return (self.shots + self.queries) * CLASSES

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        images, labels = _devices(self)
        x, y = images[list(clients)], labels[list(clients)]
        if split == "train" and self.resplit:
            draw = seeding.key(self.seed, "digits", "split", round)
            order = seeding.permutation(draw, clients, y.shape[1])
            x, y = x.gather(1, order[..., None].expand_as(x)), y.gather(1, order)
        return [first_as_support(clients, x, y, self.shots * CLASSES)]

    def references(self) -> tuple[Reference, ...]:
        return (references.nearest_neighbour(references.classes(CLASSES)),)


@lru_cache(maxsize=8)
def _devices(scenario: Digits) -> tuple[Tensor, Tensor]:
    """Distribute the images: x float32 ``(devices, images, 64)``, y int64 ``(devices, images)``.

    A device's first ``10 * shots`` images are its support in evaluation.
    """
    images, labels = dataset.load()
    rng = np.random.default_rng(seeding.key(scenario.seed, "digits", "devices"))
    order = rng.permutation(len(images))
    half, two_thirds = len(images) // 2, 2 * len(images) // 3
    pools = dict(zip(SPLITS, np.split(order, [half, two_thirds]), strict=True))
    per_class = scenario.shots + scenario.queries
    devices = [
        _device(images, labels, pools[split], rng, per_class, scenario)
        for split, members in scenario.clients().items()
        for _ in members
    ]
    xs, ys = zip(*devices, strict=True)
    return torch.from_numpy(np.stack(xs)), torch.from_numpy(np.stack(ys))


def _device(
    images: np.ndarray,
    labels: np.ndarray,
    pool: np.ndarray,
    rng: np.random.Generator,
    per_class: int,
    scenario: Digits,
) -> tuple[np.ndarray, np.ndarray]:
    crossed = rng.random(CLASSES // 2) < scenario.cross
    if scenario.skew:
        shares = rng.dirichlet([0.5] * CLASSES)
        counts = rng.multinomial(per_class * CLASSES, shares)
    else:
        counts = np.full(CLASSES, per_class)
    scarcest = int(np.bincount(labels[pool]).min())
    if per_class > scarcest:
        raise ConfigurationError(
            f"task.shots = {scenario.shots} and task.queries = {scenario.queries} need {per_class} "
            f"different images of each class, and a pool holds {scarcest} of one; lower them"
        )
    if scenario.skew:
        counts = _within(counts, shares, np.bincount(labels[pool], minlength=CLASSES), rng)
    chosen = [
        rng.choice(pool[labels[pool] == digit], count, replace=False)
        for digit, count in enumerate(counts)
    ]
    if scenario.skew:
        rows = rng.permutation(np.concatenate(chosen))
    else:
        shots = scenario.shots
        rows = np.concatenate([part[:shots] for part in chosen] + [part[shots:] for part in chosen])
    gain, offset = rng.uniform(-1, 1, 2)
    x = images[rows] / 16
    x = x * (1 + 0.3 * gain) + 0.3 * offset + 0.3 * rng.standard_normal(x.shape)
    y = labels[rows]
    wired = np.where(crossed[y // 2], y ^ 1, y)
    return ((x - 0.3) * 2.5).astype(np.float32), wired.astype(np.int64)


def _within(
    counts: np.ndarray, shares: np.ndarray, available: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Move images from classes that are too small to others, so that no image occurs twice.

    Args:
        counts: Images of each class that a device is to hold.
        shares: Probability of each class.
        available: Existing images of each class; in all at least as many as are wanted.
        rng: Draws the classes of the moved images.
    """
    total, counts = counts.sum(), np.minimum(counts, available)
    while missing := total - counts.sum():
        free = counts < available
        chances = np.where(free, shares, 0)
        chances = chances if chances.any() else free.astype(float)
        more = rng.multinomial(missing, chances / chances.sum())
        counts = np.minimum(counts + more, available)
    return counts
