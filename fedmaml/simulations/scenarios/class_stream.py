"""Class stream: ten new characters, one after another; what is left of the first when all are seen?

A client is a stream of ten characters of Omniglot. Its support are five drawings of the first
character, ``repeats`` times, then five of the second, and so on; steps of ``inner.batch = 5`` see
one character at a time, and nothing is seen again. The query has five other drawings of each. The
classes are places in the stream, so every network's head, which starts at zero, must learn them.
Test streams have characters of the 20 evaluation alphabets; validation, of the last six background
alphabets; training, of the others, and both characters and drawings are drawn anew every round.

"accuracy" is of all ten, "halves" of the first and the last five, "characters" of each. With
``evaluation.shots = [75]``, the rows of five characters, a run shows what was known then. Sharing a
body that the head learns on (ANIL) is OML of Javed, White. Meta-Learning Representations for
Continual Learning. NeurIPS 2019. arXiv:1905.12588. Means of classes need no order and do not
forget: the nearest one is the rule to beat.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional as F

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY, Metric
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets import omniglot
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

CLASSES, SHOTS = 10, 5
_PLACES = tuple(f"{place + 1}" for place in range(CLASSES))  # in the stream
_TRAIN = omniglot.BACKGROUND_ALPHABETS - 6  # alphabets; these six validate
_STREAM = {"inner.batch": SHOTS, "inner.epochs": 1}
_META = _STREAM | {"inner.lr": 0.05, "outer.lr": 0.003, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.05, "inner.steps": 5, "outer.optimizer": "adam", "outer.lr": 0.003,
              "outer.schedule": "cosine", "adaptation.lr": 0.05, "adaptation.batch": SHOTS,
              "adaptation.epochs": 1}  # fmt: skip


@settings
class ClassStream(Scenario):
    """Streams of new characters.

    Attributes:
        seed: Determines streams and drawings.
        train_clients: Streams that train.
        validation_clients: Streams for evaluation during training.
        test_clients: Streams for the final evaluation.
        repeats: How often a character's drawings are seen before the next one comes.
        data_dir: Folder with the data, see `datasets.omniglot.load`.
    """

    about: ClassVar[str] = "ten new characters one after another: what is forgotten (Omniglot)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 250, "clients": 8},
        "local": {"rounds": 0, "inner.lr": 0.1} | _STREAM,
        "fedavg": _AVERAGING | {"outer.optimizer": "sgd", "outer.lr": 1.0,
                                "outer.schedule": "constant"},
        "fedadam": _AVERAGING,
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META, "anil": _META | {"inner.lr": 0.1},
        "protonet": {"outer.lr": 0.003, "outer.schedule": "cosine"},
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 1000
    validation_clients: Annotated[int, Ge(0)] = 20
    test_clients: Annotated[int, Gt(0)] = 60
    repeats: Annotated[int, Ge(1)] = 3
    data_dir: str = ""

    def problem(self) -> Problem:
        sizes = ((omniglot.SIZE // 2) ** 2, 128, 64, CLASSES)
        halves = Metric("halves", "1", "neither", 0.0, by_half, ("first", "last"), least=0, most=1)
        each = Metric("characters", "1", "neither", 0.0, by_character, _PLACES, least=0, most=1)
        return Problem(
            lambda: MLP(sizes, head_gain=0.0), cross_entropy, (ACCURACY, halves, each),
            classes=CLASSES, ordered=True,
        )  # fmt: skip

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return CLASSES * SHOTS * (self.repeats + 1)

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape({client: self._task(split, client, round) for client in clients})

    def references(self) -> tuple[Reference, ...]:
        about = "the nearest mean image of the support's characters, in whatever order"
        return (references.nearest_class_mean(CLASSES, about),)

    def _task(self, split: Split, client: int, round: int) -> Task:
        everything = omniglot.load(self.data_dir)
        first, last = _ALPHABETS[split]
        of_split = (everything.alphabet >= first) & (everything.alphabet < last)
        characters = of_split.nonzero()[:, 0]
        draw = seeding.key(self.seed, "class_stream", split, round if split == "train" else 0)
        order = seeding.permutation(draw, [client], len(characters))[0]
        drawer = seeding.permutation(
            seeding.key(draw, "drawings"), [client], omniglot.DRAWERS, CLASSES
        )[0]
        chosen = characters[order[:CLASSES], None]
        images = everything.images[chosen, drawer[:, : 2 * SHOTS]]
        x = F.avg_pool2d(images.float() / 255, 2).flatten(2)  # (classes, drawings, pixels)
        support, query = x[:, :SHOTS], x[:, SHOTS:]
        return Task(
            Batch(support.repeat(1, self.repeats, 1).flatten(0, 1), _labels(SHOTS * self.repeats)),
            Batch(query.flatten(0, 1), _labels(SHOTS)),
        )


_ALPHABETS: Mapping[Split, tuple[int, int]] = {
    "train": (0, _TRAIN),
    "validation": (_TRAIN, omniglot.BACKGROUND_ALPHABETS),
    "test": (omniglot.BACKGROUND_ALPHABETS, omniglot.ALPHABETS),
}


def _labels(rows: int) -> Tensor:
    return torch.arange(CLASSES).repeat_interleave(rows)


def by_half(logits: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the accuracy of the first and of the last five characters; NaN without any."""
    right = (logits.argmax(-1) == y).to(logits.dtype)
    first = (y < CLASSES // 2).to(logits.dtype)
    return {
        "first": (right * first).sum() / first.sum(),
        "last": (right * (1 - first)).sum() / (1 - first).sum(),
    }


def by_character(logits: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the accuracy of each character, by its place in the stream; NaN without any."""
    right = (logits.argmax(-1) == y).to(logits.dtype)
    of = F.one_hot(y, CLASSES).to(logits.dtype)
    return dict(zip(_PLACES, (right @ of) / of.sum(0), strict=True))
