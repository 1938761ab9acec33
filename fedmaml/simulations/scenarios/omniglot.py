"""Omniglot: tell new characters apart after seeing each of them once or a few times.

1,623 characters of 50 alphabets, each drawn by 20 people. A client's task has ``ways`` characters;
its labels are their numbers in the client, so that nothing but the support says what a label means.
Two ways to form clients:

    characters  a client holds ``ways`` characters drawn from all alphabets; those who test come
                from 423 characters that no other client holds, those who validate from 100 more
                (the usual benchmark: Vinyals et al. 2016, Finn et al. 2017)
    alphabets   a client is an alphabet; it trains with other characters of it in every round.
                The publisher's 30 background alphabets train (24) and validate (6), and each of
                the 20 evaluation alphabets is met in ``tasks`` tasks

With ``rotations`` a character turned by 90, 180 or 270 degrees counts as a character of its own
(Santoro et al. 2016). In training a client splits its 20 drawings anew in every round.

With ``norm="batch"`` evaluation is transductive, as in Finn et al. 2017: all queries of a client
are normalised together.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import Conv4
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.datasets import omniglot
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import SPLITS, Recipes, Scenario, Split

_TEST, _VALIDATION, _VALIDATION_ALPHABETS = 423, 100, 6  # characters, but for the last
_OUTER = {"outer.lr": 0.003, "outer.schedule": "cosine"}
_META = {"inner.lr": 0.1, "inner.steps": 3} | _OUTER
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 20}  # fmt: skip
_IN_BATCHES = _AVERAGING | {"inner.batch": 10, "inner.steps": 6}
_ADAM = {"outer.optimizer": "adam", "outer.lr": 0.003}


@settings
class Omniglot(Scenario):
    """New handwritten characters from one or a few drawings of each.

    Attributes:
        seed: Determines the split of the characters, all clients and all tasks.
        clients_are: "characters" or "alphabets", see above.
        ways: Characters of a client.
        shots: Support drawings of each character.
        queries: Query drawings of each; a mini-batch holds some of each, as characters take turns.
        rotations: Whether turned characters are characters of their own.
        train_clients: Clients that train, with "characters".
        validation_clients: Clients for evaluation during training, with "characters".
        test_clients: Clients for the final evaluation, with "characters".
        tasks_each: Tasks in which an alphabet is evaluated, with "alphabets".
        filters: Of `Conv4`; 64 in the publications.
        norm: Of `Conv4`.
        data_dir: Folder with the data, see `datasets.omniglot.load`.
    """

    about: ClassVar[str] = "new handwritten characters from a few drawings (real, Omniglot)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 100, "clients": 8}, **dict.fromkeys(("fedavg", "fedprox"), _IN_BATCHES),
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 20}, "fedadam": _IN_BATCHES | _ADAM,
        "reptile": _IN_BATCHES | _ADAM | {"outer.schedule": "linear"},
        "fedrep": _AVERAGING | {"head.lr": 0.1, "head.steps": 5},
        "family:initialisation": _META, "fomaml": _META | {"inner.lr": 0.05, "inner.steps": 5},
        "anil": _META | {"inner.steps": 5}, "meta_sgd": _META | {"inner.steps": 1},
        "imaml": {"inner.lr": 0.1, "inner.steps": 10, "lam": 1.0},
        **dict.fromkeys(("family:personalised", "fedbabu"), _AVERAGING),
        **dict.fromkeys(("family:metric", "family:model", "r2d2"), _OUTER),
        "mann": _OUTER | {"hidden": 128, "slots": 8, "width": 64},
    }  # fmt: skip
    expected: ClassVar[Mapping[str, str]] = {
        "transductive-prediction": 'norm="batch", as published; norm="group" looks at each alone',
    }
    only_with: ClassVar[Mapping[str, tuple[str, tuple[Any, ...]]]] = {
        f"{split}_clients": ("clients_are", ("characters",)) for split in SPLITS
    } | {"tasks_each": ("clients_are", ("alphabets",))}

    seed: int = 0
    clients_are: Literal["characters", "alphabets"] = "characters"
    ways: Annotated[int, Gt(1), Le(50)] = 5
    shots: Annotated[int, Gt(0)] = 1
    queries: Annotated[int, Gt(0)] = 5
    rotations: bool = True
    train_clients: Annotated[int, Gt(0)] = 10_000
    validation_clients: Annotated[int, Ge(0)] = 50
    test_clients: Annotated[int, Gt(0)] = 200
    tasks_each: Annotated[int, Gt(0)] = 10
    filters: Annotated[int, Ge(1)] = 16
    norm: Literal["group", "batch"] = "batch"
    data_dir: str = ""

    def problem(self) -> Problem:
        network = partial(Conv4, 1, omniglot.SIZE, self.ways, self.filters, self.norm)
        return Problem(network, cross_entropy, (ACCURACY,), classes=self.ways)

    def clients(self) -> dict[Split, range]:
        if self.clients_are == "alphabets":
            train = omniglot.BACKGROUND_ALPHABETS - _VALIDATION_ALPHABETS
            test = (omniglot.ALPHABETS - omniglot.BACKGROUND_ALPHABETS) * self.tasks_each
            return numbered(train, _VALIDATION_ALPHABETS, test)
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return self.ways * (self.shots + self.queries)

    def groups(self, client: int) -> dict[str, str]:
        if self.clients_are == "characters":
            return {}
        return {"alphabet": str(self._alphabet(client))}

    def references(self) -> tuple[Reference, ...]:
        return (references.nearest_neighbour(references.classes(self.ways)),)

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        needed = self.shots + self.queries
        if needed > omniglot.DRAWERS:
            raise ConfigurationError(
                f"task.shots = {self.shots} and task.queries = {self.queries} need {needed} "
                f"drawings of a character, and there are {omniglot.DRAWERS}; lower them"
            )
        drawings = omniglot.load(self.data_dir).images
        at = round if split == "train" else 0
        characters, turns = self._characters(split, clients, at)
        key = seeding.key(self.seed, "omniglot", "drawings", split, at)
        drawer = seeding.permutation(key, clients, omniglot.DRAWERS, self.ways)[..., :needed]
        drawer = drawer.reshape(len(clients), self.ways, needed)
        x = _turned(drawings[characters[..., None], drawer], turns)
        x = x[..., None, :, :].transpose(1, 2).float() / 255
        y = torch.arange(self.ways).expand(len(clients), needed, self.ways)
        parts = slice(None, self.shots), slice(self.shots, None)
        batches = (Batch(x[:, part].flatten(1, 2), y[:, part].flatten(1, 2)) for part in parts)
        return [TaskGroup(tuple(clients), Task(*batches))]

    def _characters(
        self, split: Split, clients: Sequence[int], round: int
    ) -> tuple[Tensor, Tensor]:
        """Return the characters of clients, and by how many quarters each is turned.

        Both int64 ``(clients, ways)``. A client keeps its characters, unless it is an alphabet.
        """
        alphabets = self.clients_are == "alphabets"
        key = seeding.key(self.seed, "omniglot", "characters", split, round if alphabets else 0)
        own = self._held_by(split)
        pools = [self._pool(client) if alphabets else own for client in clients]
        versions = 4 if self.rotations else 1
        rows = []
        for client, pool in zip(clients, pools, strict=True):
            if len(pool) * versions < self.ways:
                raise ConfigurationError(
                    f"task.ways = {self.ways}: client {client} has {len(pool)} characters "
                    f"{'' if self.rotations else 'and no rotations '}to draw from; lower task.ways"
                )
            order = seeding.permutation(key, [client], len(pool) * versions)[0, : self.ways]
            rows.append(torch.stack([pool[order // versions], order % versions]))
        characters, turns = torch.stack(rows, 1)
        return characters, turns

    def _held_by(self, split: Split) -> Tensor:
        key = seeding.key(self.seed, "omniglot", "pools")
        order = seeding.permutation(key, [0], omniglot.CHARACTERS)[0]
        sizes = [omniglot.CHARACTERS - _TEST - _VALIDATION, _VALIDATION, _TEST]
        return dict(zip(SPLITS, torch.split(order, sizes), strict=True))[split]

    def _alphabet(self, client: int) -> int:
        """Return the alphabet of a client; the test clients go through theirs again and again."""
        background = omniglot.BACKGROUND_ALPHABETS
        if client < background:
            key = seeding.key(self.seed, "omniglot", "alphabets")
            return int(seeding.permutation(key, [0], background)[0, client])
        return background + (client - background) % (omniglot.ALPHABETS - background)

    def _pool(self, client: int) -> Tensor:
        alphabets = omniglot.load(self.data_dir).alphabet
        return (alphabets == self._alphabet(client)).nonzero()[:, 0]


def _turned(images: Tensor, turns: Tensor) -> Tensor:
    """Turn images ``(clients, ways, drawings, 28, 28)`` by quarters ``(clients, ways)``."""
    turned = images.clone()
    for quarters in (1, 2, 3):
        chosen = turns == quarters
        turned[chosen] = torch.rot90(images[chosen], quarters, (-2, -1))
    return turned
