"""Every scenario with files says which one is missing or is not the original, and what to do."""

import re
from pathlib import Path
from typing import Any

import pytest

from fedmaml.core.errors import DataError
from fedmaml.simulations.datasets import femnist, glucose, movielens, omniglot, panda, wisdm
from fedmaml.simulations.scenarios import CATALOGUE
from tests.catalogue import reads_data

OF_FILES: dict[str, tuple[dict[str, Any], ...]] = {
    "fairness": ({}, {"data": "adult"}),
    "graph_nodes": ({"data": "cora"}, {"data": "citeseer"}),
    "jmak": ({"data": "measured"},),
}
"""Settings with which a scenario reads files, where its own do not or there are more data sets."""

CASES = [
    pytest.param(name, settings, id="-".join([name, *settings.values()]))
    for name in CATALOGUE
    if reads_data(name)
    for settings in OF_FILES.get(name, ({},))
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_a_missing_and_an_empty_file_are_named(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    def read() -> None:
        scenario = CATALOGUE[name](**settings, data_dir=str(tmp_path))
        scenario.statistics(scenario.clients()["test"][0])
        scenario.tasks("test", [scenario.clients()["test"][0]], 0, {})

    def error() -> str:
        with pytest.raises(DataError) as raised:
            read()
        return str(raised.value)

    message = error()
    missing = re.match(rf"no file ({re.escape(str(tmp_path))}/\S+): .*FEDMAML_DATA", message)
    assert missing is not None, message
    path = Path(missing[1])
    path.parent.mkdir(parents=True)
    path.touch()
    assert f"{path} is not the original file of" in error()


def test_files_hold_the_published_clients_and_examples(data_dir: Path) -> None:
    folder = str(data_dir)
    assert {len(column) for column in panda.load(folder)} == {5136}
    people = wisdm.load(folder)
    assert (len(people), sum(len(y) for _, y in people)) == (36, 5418 - 61)  # 61 are there twice
    characters = omniglot.load(folder)
    assert (len(characters.images), int(characters.alphabet.max())) == (1623, 49)
    assert len(glucose.load(folder)) == 452
    users = movielens.load(folder)
    assert (len(users), sum(len(ratings) for ratings, *_ in users.values())) == (610, 100_836)
    assert len(femnist.load(folder)) == 105
