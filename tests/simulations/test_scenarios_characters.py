"""Omniglot, FEMNIST and activity: the data, and promises beyond the contract."""

import shutil
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.tasks import unstack
from fedmaml.simulations.datasets import femnist, omniglot, wisdm
from fedmaml.simulations.datasets.files import digest_of
from fedmaml.simulations.scenarios import Activity, Femnist, Omniglot


def nearest(support, query) -> float:
    """Return the accuracy of the nearest neighbour, one task."""
    distances = torch.cdist(query.x.flatten(1), support.x.flatten(1))
    return float((support.y[distances.argmin(1)] == query.y).double().mean())


# --- Omniglot -----------------------------------------------------------------------------------


def archive(path: Path, alphabets: dict[str, int]) -> Path:
    """Write an archive as the publisher's: alphabets by their characters, two drawings of each.

    A drawing has 105 x 105 pixels, paper white, one black bar whose place depends on the character.
    """
    image = pytest.importorskip("PIL.Image")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images/", b"")
        for alphabet, characters in alphabets.items():
            for character in range(1, characters + 1):
                for drawer in (1, 2):
                    pixels = np.ones((105, 105), bool)
                    pixels[10 * character : 10 * character + 15] = False
                    content = BytesIO()
                    image.fromarray(pixels).save(content, "PNG")
                    name = f"images/{alphabet}/character{character:02}/0001_{drawer:02}.png"
                    file.writestr(name, content.getvalue())
    return path


def test_archives_become_small_images_with_ink_255_sorted_by_alphabet(tmp_path: Path) -> None:
    archives = [
        archive(tmp_path / "one.zip", {"Latin": 2, "Greek": 1}),
        archive(tmp_path / "two.zip", {"Latin": 1}),
    ]
    images, alphabets = omniglot.converted(archives)
    assert images.shape == (8, 28, 28)
    assert images.dtype == np.uint8
    assert alphabets.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]  # Greek first; the other Latin is another
    assert images[0, 4].min() > 240
    assert images[0, 20:].max() < 15
    assert images[4].argmax(0).max() > images[2].argmax(0).max()  # character 2 lies lower


def test_a_converted_cache_is_used_again_and_a_damaged_one_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (omniglot.CHARACTERS * omniglot.DRAWERS, 28, 28)
    images = np.zeros(shape, np.uint8)
    alphabets = np.zeros(len(images), np.uint8)
    made = []

    def converted(archives: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        made.append(archives)
        return images, alphabets

    monkeypatch.delenv("FEDMAML_DATA", raising=False)
    monkeypatch.setattr(omniglot, "cache", lambda folder: tmp_path / folder)
    monkeypatch.setattr(omniglot, "located", lambda file, _folder: tmp_path / file.name)
    monkeypatch.setattr(omniglot, "converted", converted)
    with pytest.raises(DataError, match="Pillow resizes differently"):
        omniglot.load()
    monkeypatch.setattr(omniglot, "PIXELS_SHA256", omniglot._digest(images))
    for expected in (2, 2):  # the failed conversion, this one; then the cache
        omniglot.load.cache_clear()
        omniglot.load()
        assert len(made) == expected
    (tmp_path / "omniglot" / omniglot.CONVERTED.name).write_bytes(b"PK\x03\x04 cut short")
    omniglot.load.cache_clear()
    omniglot.load()
    assert len(made) == 3
    omniglot.load.cache_clear()


@pytest.mark.parametrize("wrong", ["images_background.zip", "images_evaluation.zip"])
def test_an_archive_that_is_not_the_publishers_is_named(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other archive passes for the publisher's: its digest is set to that of the file."""
    monkeypatch.setattr(omniglot, "cache", lambda folder: tmp_path / "cache" / folder)
    (tmp_path / "omniglot").mkdir()
    known = []
    for file in omniglot.ARCHIVES:
        path = archive(tmp_path / "omniglot" / file.name, {"Latin": 1})
        digest = digest_of(path.read_bytes(), file.digest)
        known.append(file if file.name == wrong else replace(file, digest=digest))
    monkeypatch.setattr(omniglot, "ARCHIVES", tuple(known))
    omniglot.load.cache_clear()
    scenario = Omniglot(data_dir=str(tmp_path))
    with pytest.raises(DataError, match=rf"{wrong} is not the original file of .* its MD5 is"):
        scenario.tasks("test", scenario.clients()["test"][:1], 0, {})
    assert not (tmp_path / "cache").exists()


def test_without_a_network_omniglot_says_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def retrieve(*args: object, **options: object) -> str:
        raise OSError("no route to host")

    monkeypatch.delenv("FEDMAML_DATA", raising=False)
    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.setattr(omniglot, "cache", lambda _folder: Path("/nonexistent"))
    omniglot.load.cache_clear()
    with pytest.raises(DataError, match=r"images_background\.zip.*connect.*--data-dir"):
        omniglot.load()


def test_omniglot_has_964_background_characters_and_the_known_nearest_neighbour_accuracy(
    data_dir: Path,
) -> None:
    whole = omniglot.load(str(data_dir))
    assert int((whole.alphabet < omniglot.BACKGROUND_ALPHABETS).sum()) == 964
    scenario = Omniglot(data_dir=str(data_dir), rotations=False, test_clients=300)
    group = scenario.tasks("test", scenario.clients()["test"], 0, {})[0].tasks
    accuracies = [
        nearest(*(type(part)(part.x[i], part.y[i]) for part in group)) for i in range(300)
    ]
    assert np.mean(accuracies) == pytest.approx(0.43, abs=0.04)  # the literature: about .42


def test_characters_of_test_clients_are_no_others(data_dir: Path) -> None:
    scenario = Omniglot(data_dir=str(data_dir), train_clients=400)
    held = {
        split: set(scenario._characters(split, clients, 1)[0].flatten().tolist())
        for split, clients in scenario.clients().items()
    }
    assert not held["train"] & held["test"]
    assert not held["validation"] & (held["train"] | held["test"])


def test_alphabets_train_with_other_characters_in_every_round(data_dir: Path) -> None:
    scenario = Omniglot(data_dir=str(data_dir), clients_are="alphabets", tasks_each=2)
    sizes = {split: len(clients) for split, clients in scenario.clients().items()}
    assert sizes == {"train": 24, "validation": 6, "test": 40}
    first, second = (scenario._characters("train", [0], round)[0] for round in (1, 2))
    assert not torch.equal(first, second)
    first, second = (scenario._characters("test", [30], round)[0] for round in (0, 0))
    assert torch.equal(first, second)
    assert scenario.groups(30) == scenario.groups(50) == {"alphabet": "30"}


def test_every_mini_batch_of_local_training_holds_every_character(data_dir: Path) -> None:
    scenario = Omniglot(shots=2, queries=3, data_dir=str(data_dir))
    (group,) = scenario.tasks("train", range(3), 1, {})
    for side in group.tasks:
        assert (side.y.unfold(1, 5, 5) == torch.arange(5)).all()


def test_an_image_is_a_drawing_of_the_character_of_its_label(data_dir: Path) -> None:
    scenario = Omniglot(shots=2, queries=3, rotations=False, data_dir=str(data_dir))
    characters, _ = scenario._characters("train", [4], 1)
    drawings = omniglot.load(str(data_dir)).images
    for side in scenario.tasks("train", [4], 1, {})[0].tasks:
        for x, y in zip(side.x[0], side.y[0].tolist(), strict=True):
            shown = (255 * x[0]).round().to(torch.uint8)
            assert (drawings[characters[0, y]] == shown).all((-2, -1)).any()


def test_a_turned_character_is_the_same_drawing_turned(data_dir: Path) -> None:
    scenario = Omniglot(data_dir=str(data_dir))
    characters, turns = scenario._characters("train", range(20), 1)
    assert set(turns.flatten().tolist()) == {0, 1, 2, 3}
    support = scenario.tasks("train", range(20), 1, {})[0].tasks.support
    drawings = omniglot.load(str(data_dir)).images
    for client, way in ((0, 0), (7, 2), (19, 4)):
        shown = (255 * support.x[client, way, 0]).round().to(torch.uint8)
        quarters = int(turns[client, way])
        known = torch.rot90(drawings[characters[client, way]], quarters, (-2, -1))
        assert any(torch.equal(shown, one) for one in known)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shots": 10, "queries": 11}, "need 21 drawings of a character, and there are 20"),
        ({"clients_are": "alphabets", "rotations": False, "ways": 50}, "client 0 has .* lower"),
    ],
)
def test_more_than_there_is_is_refused(data_dir: Path, fields: dict, words: str) -> None:
    scenario = Omniglot(data_dir=str(data_dir), **fields)
    with pytest.raises(ConfigurationError, match=words):
        scenario.tasks("train", [0], 1, {})


# --- FEMNIST ------------------------------------------------------------------------------------


def test_femnist_has_105_writers_and_no_image_twice(data_dir: Path) -> None:
    writers = femnist.load(str(data_dir))
    assert len(writers) == 105
    assert sum(len(y) for _, y in writers.values()) == 16_317 - 105
    for x, y in writers.values():
        assert len({image.numpy().tobytes() for image in x}) == len(y)
        assert x[:, 0, 0].float().mean() < 30  # paper is 0


def test_femnist_has_the_known_nearest_neighbour_accuracy(data_dir: Path) -> None:
    """An independent implementation has .597, of two seeds."""
    accuracies = []
    for seed in (0, 1):
        scenario = Femnist(seed=seed, data_dir=str(data_dir))
        for group in scenario.tasks("test", scenario.clients()["test"], 0, {}):
            accuracies += [nearest(*task) for task in unstack(group).values()]
    assert len(accuracies) == 48
    assert np.mean(accuracies) == pytest.approx(0.597, abs=0.04)


def test_femnist_with_more_shots_than_writers_have_names_the_most(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"task\.shots = 170: .*the most is 182"):
        Femnist(data_dir=str(data_dir), shots=170).clients()


# --- activity -----------------------------------------------------------------------------------


def test_activity_has_36_people_and_the_published_shares(data_dir: Path) -> None:
    people = wisdm.load(str(data_dir))
    assert len(people) == 36
    labels = torch.cat([y for _, y in people])
    shares = torch.bincount(labels) / len(labels)
    published = torch.tensor([0.384, 0.300, 0.117, 0.098, 0.057, 0.046])
    torch.testing.assert_close(shares, published, atol=0.003, rtol=0)


def test_the_first_windows_are_the_support_where_that_is_asked(data_dir: Path) -> None:
    scenario = Activity(data_dir=str(data_dir), support="first")
    one, other = (scenario.tasks("train", [3], round, _scales(scenario))[0] for round in (1, 2))
    assert torch.equal(one.tasks.support.x, other.tasks.support.x)
    assert not torch.equal(one.tasks.query.x, other.tasks.query.x)


def _scales(scenario: Activity) -> dict:
    parts = [scenario.statistics(client) for client in scenario.clients()["train"]]
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def test_a_file_that_cannot_be_downloaded_says_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FEDMAML_DATA", raising=False)
    wisdm.load.cache_clear()
    with pytest.raises(DataError, match=r"source: Fordham.*--data-dir or FEDMAML_DATA"):
        wisdm.load()


def test_a_changed_file_is_refused(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "wisdm_har", tmp_path / "wisdm_har")
    path = tmp_path / "wisdm_har" / wisdm.FILE.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"is not the original file of Fordham.*SHA-256"):
        wisdm.load(str(tmp_path))
