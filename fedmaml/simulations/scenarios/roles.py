"""Roles: which letter follows? The characters of Shakespeare's plays, each with a voice of its own.

A role with 3,000 letters or more is a client. An example are 30 letters and, for each, the next
one; the first five are not scored. The support are windows of the first half of a role's text, the
query windows of the second half; both are drawn anew in training. Every window starts without a
past. Roles who train and who are tested are different, but may be of one play and share its names:
``groups`` has the play.

A role's style is a small shift beside what a language model of this size (a GRU of 64) does not
know anyway: no method gains from adapting. Use plain averaging here.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional as F

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import GRU
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations.datasets import shakespeare
from fedmaml.simulations.datasets.suited import suited
from fedmaml.simulations.dealing import deal
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split

LENGTH, UNSCORED = 30, 5
_FEWEST_LETTERS = 3000
_EMBEDDING = 16
_META = {"inner.lr": 0.3, "inner.steps": 1, "outer.lr": 0.01, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 1.0, "inner.steps": 3, "outer.optimizer": "adam", "outer.lr": 0.01,
              "outer.schedule": "cosine", "adaptation.lr": 0.1, "adaptation.steps": 3}  # fmt: skip


class NextLetter(nn.Module):
    """Letters embedded, gated recurrent units, and a logit for every next letter."""

    def __init__(self, letters: int, hidden: int) -> None:
        super().__init__()
        self.letters = nn.Parameter(nn.init.normal_(torch.empty(letters, _EMBEDDING)))
        self.body = GRU(_EMBEDDING, hidden)
        self.head = nn.Linear(hidden, letters)

    def forward(self, x: Tensor) -> Tensor:
        """Map letters by number, int64 ``(windows, 30)``, to logits ``(windows, 30, letters)``."""
        output: Tensor = self.head(self.body(self.letters[x]))
        return output


@settings
class Roles(Scenario):
    """Roles of Shakespeare's plays.

    Attributes:
        seed: Determines who trains, and the windows.
        shots: Support windows of a role.
        queries: Query windows of a role.
        hidden: Width of the recurrent state.
        data_dir: Folder with the data, see `datasets.shakespeare.load`.
    """

    about: ClassVar[str] = "the next letter of 359 roles of Shakespeare's plays (real)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 120, "clients": 8},
        "local": {"rounds": 0, "inner.lr": 1.0, "inner.steps": 100},
        "fedavg": _AVERAGING | {"outer.optimizer": "sgd", "outer.lr": 1.0,
                                "outer.schedule": "constant"},
        "fedadam": _AVERAGING,
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META | {"inner.lr": 0.1}, "meta_sgd": _META, "anil": _META,
    }  # fmt: skip

    seed: int = 0
    shots: Annotated[int, Gt(0)] = 20
    queries: Annotated[int, Gt(0)] = 20
    hidden: Annotated[int, Ge(1)] = 64
    data_dir: str = ""

    def problem(self) -> Problem:
        letters = len(_roles(self.data_dir).letters)
        metrics = (
            Metric("bits", "bit", "lower", math.inf, bits_per_letter, least=0),
            Metric("accuracy", "1", "higher", 0.0, _accuracy, least=0, most=1),
        )
        return Problem(lambda: NextLetter(letters, self.hidden), next_letter_loss, metrics)

    def clients(self) -> dict[Split, range]:
        roles, most = _roles(self.data_dir).windows, max(self.shots, self.queries)
        fewest = min(len(windows) // 2 for windows in roles)
        if most > fewest:
            raise ConfigurationError(
                f"task.shots = {self.shots}, task.queries = {self.queries}: half of the shortest "
                f"role is {fewest} windows; lower them to that"
            )
        return deal(len(roles))

    def statistics(self, client: int) -> Params:
        letters = len(_roles(self.data_dir).letters)
        windows = self._windows(client)
        pairs = letters * windows[:, :-1] + windows[:, 1:]
        return {"pairs": pairs.flatten().bincount(minlength=letters**2).double()}

    def max_examples(self, client: int) -> int:
        return self.shots + self.queries

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        at = round if split == "train" else 0
        draw = seeding.key(self.seed, "roles", "windows", split, at)
        return group_by_shape({client: self._task(client, draw) for client in clients})

    def left_out(self) -> Mapping[str, str]:
        return _roles(self.data_dir).left_out

    def references(self) -> tuple[Reference, ...]:
        about = "how often each letter follows another in all training roles, from their counts"
        return (Reference("bigrams", about, _bigrams),)

    def groups(self, client: int) -> Mapping[str, str]:
        return {"play": _roles(self.data_dir).plays[self._place(client)]}

    def _task(self, client: int, draw: int) -> Task:
        windows = self._windows(client)
        half = len(windows) // 2
        order = seeding.permutation(draw, [client], half, 2)[0]
        first, second = windows[:half][order[0]], windows[-half:][order[1]]
        parts = first[: self.shots], second[: self.queries]
        return Task(*(Batch(part[:, :-1], part[:, 1:]) for part in parts))

    def _windows(self, client: int) -> Tensor:
        return _roles(self.data_dir).windows[self._place(client)]

    def _place(self, client: int) -> int:
        key, count = seeding.key(self.seed, "roles", "people"), len(_roles(self.data_dir).plays)
        return int(seeding.permutation(key, [0], count)[0, client])


def next_letter_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean of -log p(letter) over a window's scored letters, ``(windows,)``."""
    logs = F.log_softmax(logits[:, UNSCORED:], -1)
    return -logs.gather(-1, y[:, UNSCORED:, None])[..., 0].mean(-1)


def bits_per_letter(logits: Tensor, y: Tensor) -> Tensor:
    """Return the same in bits, the mean over windows."""
    return next_letter_loss(logits, y).mean() / math.log(2)


def _accuracy(logits: Tensor, y: Tensor) -> Tensor:
    right = logits[:, UNSCORED:].argmax(-1) == y[:, UNSCORED:]
    return right.to(logits.dtype).mean()


def _bigrams(clients: TrainingClients) -> Adapt:
    counts = clients.statistics["pairs"]
    letters = math.isqrt(len(counts))
    logs = (counts.view(letters, letters) + 0.1).log().float()
    return lambda _support: lambda x: logs[x]


class _Roles(NamedTuple):
    """Windows of each role, int64 ``(windows, 31)``; its play; the letters; who is left out."""

    windows: tuple[Tensor, ...]
    plays: tuple[str, ...]
    letters: str
    left_out: dict[str, str]


@lru_cache(maxsize=2)
def _roles(data_dir: str) -> _Roles:
    reason = f"fewer than {_FEWEST_LETTERS:,} letters"
    texts, others = suited(
        shakespeare.load(data_dir), lambda text: reason if len(text) < _FEWEST_LETTERS else ""
    )
    letters = "".join(sorted(set("".join(texts.values()))))
    number = np.zeros(ord(letters[-1]) + 1, dtype=np.int64)
    number[[ord(letter) for letter in letters]] = np.arange(len(letters))
    windows = []
    for text in texts.values():
        codes = number[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)]
        count = (len(codes) - 1) // LENGTH
        rows = LENGTH * np.arange(count)[:, None] + np.arange(LENGTH + 1)
        windows.append(torch.from_numpy(codes[rows]))
    left_out = {f"{role} in {play}": why for (play, role), why in others.items()}
    return _Roles(tuple(windows), tuple(play for play, _ in texts), letters, left_out)
