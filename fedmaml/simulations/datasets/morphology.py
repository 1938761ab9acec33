"""Word forms of 11 languages that inflect by suffixes, from the CoNLL-SIGMORPHON 2018 shared task.

Cotterell et al. The CoNLL-SIGMORPHON 2018 Shared Task: Universal Morphological Reinflection. 2018.
From UniMorph (Kirov et al. UniMorph 2.0. LREC 2018) and Wiktionary, CC BY-SA 3.0;
https://github.com/sigmorphon/conll2018. The file read here is the task's tables as one.
"""

import gzip
import unicodedata
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, located, read_once
from fedmaml.simulations.datasets.suited import suited

LANGUAGES = (
    "azeri", "bashkir", "crimean-tatar", "danish", "english", "estonian", "finnish", "hungarian",
    "northern-sami", "swedish", "turkish",
)  # fmt: skip
SCRIPTS = 8
"""Scripts of a slot that are classes; all others are one more."""

ENDING = 6
"""Letters of a lemma that are kept, from its end."""

FILE = DataFile(
    "morphology",
    "sigmorphon2018_task1.tsv.gz",
    "sha256:49c477b97e642f98bbe0220bc03e977f3a474941e3107c1b58d6e18451cca69d",
    source="github.com/sigmorphon/conll2018, task 1 as one table",
)

Script = tuple[int, str]
"""How a lemma becomes a form: letters that are cut from its end, and what is appended."""


class Slot(NamedTuple):
    """The words of one language in one cell of its paradigms.

    Attributes:
        language: One of `LANGUAGES`.
        features: UniMorph's tags, e.g. "V;3;SG;PRS".
        words: Lemma and script, sorted by lemma; of a lemma with two forms the first in the file.
    """

    language: str
    features: str
    words: tuple[tuple[str, Script], ...]


@read_once
def load(data_dir: str = "") -> tuple[Slot, ...]:
    """Return the slots of all languages, sorted by language and features.

    Args:
        data_dir: Folder that holds a folder ``morphology``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    found: dict[tuple[str, str], dict[str, Script]] = {}
    with gzip.open(located(FILE, data_dir), "rt", encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            _, language, part, lemma, form, features = line.rstrip("\n").split("\t")
            if part == "train" and language in LANGUAGES:
                words = found.setdefault((language, features), {})
                lemma, form = (unicodedata.normalize("NFC", word) for word in (lemma, form))
                words.setdefault(lemma, script_of(lemma, form))
    return tuple(Slot(*key, tuple(sorted(words.items()))) for key, words in sorted(found.items()))


def script_of(lemma: str, form: str) -> Script:
    """Return what follows the longest common beginning: how much of the lemma, and the form's."""
    common = 0
    for one, other in zip(lemma, form, strict=False):
        if one != other:
            break
        common += 1
    return len(lemma) - common, form[common:]


def applied(lemma: str, script: Script) -> str:
    """Return the form that a script makes of a lemma."""
    cut, appended = script
    return lemma[: len(lemma) - cut] + appended


class EncodedSlot(NamedTuple):
    """A slot as numbers.

    Attributes:
        language: One of `LANGUAGES`.
        x: The last letters of each lemma, the last one first, int64 ``(words, 6)``; 0 is none.
        script: Number of each word's script within the slot, int64 ``(words,)``.
    """

    language: str
    x: Tensor
    script: Tensor


class Encoded(NamedTuple):
    """Slots as numbers, how many letters there are, 0 included, and the slots that are left out."""

    slots: tuple[EncodedSlot, ...]
    letters: int
    left_out: dict[str, str]


def encoded(data_dir: str, fewest: int, commonest: float) -> Encoded:
    """Return the slots that have enough words, and in which no script rules.

    Args:
        data_dir: As in `load`.
        fewest: Words of a slot, at least.
        commonest: Share of the commonest script, below which a slot is taken.
    """

    def lacking(slot: Slot) -> str:
        if len(slot.words) < fewest:
            return f"fewer than {fewest} words"
        most = max(Counter(script for _, script in slot.words).values())
        rules = most >= commonest * len(slot.words)
        return f"one script makes {commonest:.0%} of the forms" if rules else ""

    by_name = {f"{slot.language} {slot.features}": slot for slot in load(data_dir)}
    fit, left_out = suited(by_name, lacking)
    slots = fit.values()
    letters = sorted({letter for slot in slots for lemma, _ in slot.words for letter in lemma})
    numbers = {letter: number for number, letter in enumerate(letters, 1)}
    return Encoded(tuple(_encoded(slot, numbers) for slot in slots), len(letters) + 1, left_out)


def _encoded(slot: Slot, numbers: dict[str, int]) -> EncodedSlot:
    x = torch.zeros(len(slot.words), ENDING, dtype=torch.int64)
    for row, (lemma, _) in enumerate(slot.words):
        for place, letter in enumerate(reversed(lemma[-ENDING:])):
            x[row, place] = numbers[letter]
    scripts = sorted({script for _, script in slot.words})
    script = torch.tensor([scripts.index(script) for _, script in slot.words])
    return EncodedSlot(slot.language, x, script)


def ranks(script: Tensor, support: Tensor) -> Tensor:
    """Return each word's class: the rank of its script among the support's, 8 if it has none.

    Args:
        script: Number of each word's script, ``(words,)``; of equally frequent ones the smaller
            number comes first.
        support: Rows of the support.
    """
    count = script[support].bincount(minlength=int(script.max()) + 1)
    best = count.argsort(descending=True, stable=True)[:SCRIPTS]
    rank = torch.full_like(count, SCRIPTS)
    rank[best] = torch.where(count[best] > 0, torch.arange(len(best)), SCRIPTS)
    return rank[script]
