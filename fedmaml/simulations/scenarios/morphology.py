"""Morphology: how does a language inflect, in a cell of its paradigms that was never seen?

A client is a slot, a language and a bundle of features, e.g. Turkish, dative plural; 11 languages
that inflect by suffixes. An example is a lemma; its class is the *rank*, among the support's edit
scripts by frequency, of the script that makes its form: cut n letters, append some. Scripts beyond
the eighth, and those that no support word shows, are the ninth class, which is always a miss. So
the classes' meaning is in the support alone: what can be shared between languages is how the ends
of words choose among a slot's scripts.

With ``unseen = "slot"`` any slots train and others are tested; with "language" two languages are
tested, one more validates, and the others train. Slots have 40 words or more, and no script makes
90 % of the forms. Lemmas of one language recur in its slots. The rule to beat takes the script of
the support word with the longest common ending.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional as F

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets import morphology
from fedmaml.simulations.dealing import deal, in_order, numbered
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import SPLITS, Recipes, Scenario, Split

_FEWEST, _FEWEST_QUERIES, _COMMONEST = 40, 20, 0.9
_EMBEDDING = 8
_META = {"inner.lr": 0.2, "inner.steps": 5, "outer.lr": 0.005, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.2, "adaptation.steps": 30}  # fmt: skip


class Endings(nn.Module):
    """The last letters of a word, embedded, through one hidden layer."""

    def __init__(self, letters: int, hidden: int) -> None:
        super().__init__()
        self.letters = nn.Parameter(nn.init.normal_(torch.empty(letters, _EMBEDDING)))
        self.body = nn.Linear(morphology.ENDING * _EMBEDDING, hidden)
        self.head = nn.Linear(hidden, morphology.SCRIPTS + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map letters by number, int64 ``(words, 6)``, to logits ``(words, 9)``."""
        output: Tensor = self.head(torch.relu(self.body(self.letters[x].flatten(-2))))
        return output


@settings
class Morphology(Scenario):
    """Slots of 11 languages.

    Attributes:
        seed: Determines which slots or languages are unseen, and all splits.
        shots: Support words of a slot.
        queries: Query words of a slot, at most.
        unseen: What test clients are: a "slot" of a known language, or of an unknown "language".
        hidden: Width of the hidden layer.
        data_dir: Folder with the data, see `datasets.morphology.load`.
    """

    about: ClassVar[str] = "inflection in 11 languages: unseen slots and languages (real, UniMorph)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 250, "clients": 16},
        "local": {"rounds": 0, "inner.lr": 0.2, "inner.steps": 100},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.005,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "fedrep": _AVERAGING | {"head.lr": 0.2, "head.steps": 10},
        "maml": _META, "fomaml": _META, "meta_sgd": _META, "anil": _META,
        "protonet": {"outer.lr": 0.005, "outer.schedule": "cosine"},
    }  # fmt: skip
    expected: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("support-query-overlap", "duplicates-across-clients"),
        "different lemmas end alike, and a lemma is in many slots of its language",
    )

    seed: int = 0
    shots: Annotated[int, Gt(1)] = 20
    queries: Annotated[int, Gt(0)] = 40
    unseen: Literal["slot", "language"] = "slot"
    hidden: Annotated[int, Ge(1)] = 48
    data_dir: str = ""

    def problem(self) -> Problem:
        exact = Metric("exact", "1", "higher", 0.0, exact_match, least=0, most=1)
        covered = Metric("covered", "1", "neither", 0.0, _covered, least=0, most=1)
        letters = _encoded(self.data_dir, self.shots).letters
        return Problem(
            lambda: Endings(letters, self.hidden), cross_entropy, (exact, covered),
            classes=morphology.SCRIPTS + 1,
        )  # fmt: skip

    def clients(self) -> dict[Split, range]:
        slots = _encoded(self.data_dir, self.shots).slots
        if self.unseen == "slot":
            return deal(len(slots))
        counts = Counter(map(self.splits().get, (slot.language for slot in slots)))
        return numbered(counts["train"], counts["validation"], counts["test"])

    def max_examples(self, client: int) -> int:
        return self.shots + self.queries

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape({client: self._task(split, client, round) for client in clients})

    def left_out(self) -> Mapping[str, str]:
        return _encoded(self.data_dir, self.shots).left_out

    def references(self) -> tuple[Reference, ...]:
        targets = references.classes(morphology.SCRIPTS + 1)
        about = "the script of the support word with the longest common ending"
        return (
            references.constant(targets, "commonest script"),
            Reference("longest common ending", about, _longest_ending),
        )

    def groups(self, client: int) -> Mapping[str, str]:
        return {"language": self._slot(client).language}

    def _task(self, split: Split, client: int, round: int) -> Task:
        x, script = self._slot(client).x, self._slot(client).script
        draw = seeding.key(self.seed, "morphology", split, round if split == "train" else 0)
        order = seeding.permutation(draw, [client], len(script))[0]
        y = morphology.ranks(script, order[: self.shots])
        return in_order(x, y, order, self.shots, self.queries)

    def _slot(self, client: int) -> morphology.EncodedSlot:
        return _encoded(self.data_dir, self.shots).slots[_order(self)[client]]

    def splits(self) -> dict[str, Split]:
        """Return the split of each language; two are tested, one validates."""
        key = seeding.key(self.seed, "morphology", "languages")
        order = seeding.permutation(key, [0], len(morphology.LANGUAGES))[0].tolist()
        languages = [morphology.LANGUAGES[at] for at in order]
        splits: dict[str, Split] = dict.fromkeys(languages, "train")
        return splits | dict.fromkeys(languages[:2], "test") | {languages[2]: "validation"}


def exact_match(logits: Tensor, y: Tensor) -> Tensor:
    """Return the fraction of forms that come out right; the ninth class never does."""
    return (logits[:, : morphology.SCRIPTS].argmax(-1) == y).to(logits.dtype).mean()


def _covered(logits: Tensor, y: Tensor) -> Tensor:
    """Return the fraction of words whose script the support shows: no method can do better."""
    return (y < morphology.SCRIPTS).to(logits.dtype).mean()


def _longest_ending(_clients: TrainingClients) -> Adapt:
    def adapt(support: Batch) -> Predictor:
        def predict(x: Tensor) -> Tensor:
            same = (x[:, None] == support.x[None]).long().cumprod(-1).sum(-1)
            first = (same == same.max(1, keepdim=True).values).long().argmax(1)
            return F.one_hot(support.y[first], morphology.SCRIPTS + 1).float()

        return predict

    return adapt


@lru_cache(maxsize=4)
def _order(scenario: Morphology) -> list[int]:
    """Return the slots in the order of the clients."""
    slots = _encoded(scenario.data_dir, scenario.shots).slots
    key = seeding.key(scenario.seed, "morphology", "slots")
    order: list[int] = seeding.permutation(key, [0], len(slots))[0].tolist()
    if scenario.unseen == "slot":
        return order
    splits = scenario.splits()
    return sorted(order, key=lambda at: SPLITS.index(splits[slots[at].language]))


@lru_cache(maxsize=4)
def _encoded(data_dir: str, shots: int) -> morphology.Encoded:
    encoded = morphology.encoded(data_dir, max(_FEWEST, shots + _FEWEST_QUERIES), _COMMONEST)
    languages = {slot.language for slot in encoded.slots}
    if len(languages) < len(morphology.LANGUAGES):
        raise ConfigurationError(
            f"task.shots = {shots}: of {len(morphology.LANGUAGES)} languages {len(languages)} have "
            f"a slot with the {shots + _FEWEST_QUERIES} words that this takes; lower task.shots"
        )
    return encoded
