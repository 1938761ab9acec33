"""Morphology: edit scripts, classes that only the support defines, and the rule to beat."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.tasks import Batch
from fedmaml.simulations.datasets import morphology as dataset
from fedmaml.simulations.datasets.morphology import applied, ranks, script_of
from fedmaml.simulations.scenarios import Morphology
from fedmaml.simulations.scenarios.morphology import exact_match


@pytest.mark.parametrize(
    ("lemma", "form", "script"),
    [("walk", "walked", (0, "ed")), ("try", "tries", (1, "ies")), ("go", "went", (2, "went")),
     ("sheep", "sheep", (0, "")), ("talo", "taloissa", (0, "issa"))],
)  # fmt: skip
def test_a_script_cuts_and_appends(lemma: str, form: str, script: tuple[int, str]) -> None:
    assert script_of(lemma, form) == script
    assert applied(lemma, script) == form


def test_448_slots_of_11_languages_have_the_known_numbers(data_dir: Path) -> None:
    slots = dataset.encoded(str(data_dir), 40, 0.9).slots
    counts = Counter(slot.language for slot in slots)
    assert sum(counts.values()) == 448
    assert {language: counts[language] for language in ("estonian", "turkish", "english")} == {
        "estonian": 101, "turkish": 83, "english": 3,
    }  # fmt: skip


def test_classes_are_ranks_within_the_support() -> None:
    script = torch.tensor([5, 5, 2, 2, 2, 7, 5, 9])
    found = ranks(script, torch.tensor([0, 1, 2, 3, 4, 5]))
    assert found.tolist() == [1, 1, 0, 0, 0, 2, 1, 8]  # script 9 is not in the support
    assert ranks(script, torch.tensor([5])).tolist() == [8, 8, 8, 8, 8, 0, 8, 8]
    many = torch.arange(12)
    assert ranks(many, many).tolist() == [*range(8), 8, 8, 8, 8]  # the ninth and later are misses


def test_the_query_changes_no_class(data_dir: Path) -> None:
    scenario = Morphology(data_dir=str(data_dir))
    client = scenario.clients()["test"][0]
    slot, task = scenario._slot(client), scenario._task("test", client, 0)
    rows = {tuple(row.tolist()) for row in task.support.x}
    support = [at for at, row in enumerate(slot.x.tolist()) if tuple(row) in rows]
    assert len(support) >= 20
    kept = Counter(task.support.y.tolist())
    ordered = [kept[rank] for rank in range(8) if kept[rank]]
    assert ordered == sorted(ordered, reverse=True)


def test_the_ninth_class_is_never_right() -> None:
    y = torch.tensor([0, 8, 3])
    logits = torch.nn.functional.one_hot(y, 9).float()
    assert float(exact_match(logits, y)) == pytest.approx(2 / 3)


def test_the_rule_takes_the_word_with_the_longest_common_ending() -> None:
    letters = torch.tensor([[1, 2, 3, 0, 0, 0], [1, 2, 4, 0, 0, 0], [5, 2, 3, 0, 0, 0]])
    rule = next(each for each in Morphology().references() if each.name == "longest common ending")
    predict = rule.fit(None)(Batch(letters, torch.tensor([2, 0, 1])))
    words = torch.tensor([[1, 2, 4, 9, 0, 0], [5, 1, 1, 1, 1, 1], [1, 2, 3, 0, 0, 0]])
    assert predict(words).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.slow
def test_unseen_languages_are_in_no_other_split(data_dir: Path) -> None:
    scenario = Morphology(unseen="language", data_dir=str(data_dir))
    languages = {
        split: {scenario.groups(client)["language"] for client in clients}
        for split, clients in scenario.clients().items()
    }
    assert [len(found) for found in languages.values()] == [8, 1, 2]
    assert not languages["train"] & languages["test"]
    slots = Morphology(data_dir=str(data_dir)).clients()
    assert sum(len(numbers) for numbers in slots.values()) == 448


def test_a_damaged_file_and_too_many_shots_are_refused(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"task\.shots = 4000: of 11 languages 0 have"):
        Morphology(shots=4000, data_dir=str(data_dir)).clients()
    (tmp_path / "morphology").mkdir()
    (tmp_path / "morphology" / dataset.FILE.name).write_bytes(b"language\tlemma\n")
    with pytest.raises(DataError, match=r"sigmorphon2018_task1\.tsv\.gz is not the original"):
        Morphology(data_dir=str(tmp_path)).clients()
