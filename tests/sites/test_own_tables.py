"""Tables at real sites: agreed columns, each site's own file, the same bits as in one process."""

import dataclasses
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fedmaml.config import resolve
from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.running import execute
from fedmaml.simulations.datasets import heart_disease
from fedmaml.simulations.datasets.agreed import own_examples, schema_from
from fedmaml.simulations.scenarios.csv import Csv
from fedmaml.sites.site_file import Data
from tests.sites.federation import new_site
from tests.sites.test_worker import run_at, serving, theta

pytest.importorskip("pandas")

AGREED = {"sites": 3, "target": "ill", "columns": ["age", "sex=f|m"], "classes": ["0", "1"]}
RUN: dict[str, Any] = {
    "scenario": "csv", "strategy": "fomaml", "rounds": 2, "client_batch": 1,
    **{f"task.{key}": value for key, value in AGREED.items()},
}  # fmt: skip


def rows_of(site: int) -> list[tuple[int, str, int]]:
    return [(20 + (7 * i + 13 * site) % 50, "fm"[(i + site) % 2], (i // 2) % 2) for i in range(14)]


def write_table(path: Path, site: int, target: str = "ill") -> Path:
    lines = [f"age,sex,{target}", *(f"{a},{s},{y}" for a, s, y in rows_of(site))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def returned() -> Any:
    """Return the examples of site 1, as a function of a site does."""
    import pandas as pd

    frame = pd.DataFrame(rows_of(1), columns=["age", "sex", "ill"])
    return frame.drop(columns="ill"), frame["ill"]


def test_each_site_reads_its_own_table_and_the_bits_are_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sites 0 and 1 train, site 2 is held out; one is a file, one a function, one names otherwise.

    In one process the same tables are read by a scenario that knows all three.
    """
    monkeypatch.setenv("FEDMAML_RUNS", str(tmp_path / "runs"))
    data = (
        Data(table=write_table(tmp_path / "a.csv", 0), target="ill"),
        Data(module=f"{__name__}:returned"),
        Data(table=write_table(tmp_path / "c.csv", 2, "outcome"), target="outcome"),
    )
    files = [new_site(tmp_path / f"s{i}", i, 3, each) for i, each in enumerate(data)]
    with serving(files[0]), serving(files[1]), serving(files[2]):
        run_at(files, RUN, "at-sites")

    tables = [write_table(tmp_path / f"{site}.csv", site) for site in range(3)]
    monkeypatch.setattr(Csv, "_files", property(lambda self: all_of(self, tables)))
    execute(resolve(RUN), tmp_path / "plain")
    assert theta(tmp_path / "runs" / "at-sites") == theta(tmp_path / "plain")
    summary = json.loads((tmp_path / "runs" / "at-sites" / "summary.json").read_text())
    assert (summary["clients_train"], summary["clients_evaluated"]) == (2, 1)


def all_of(scenario: Csv, tables: list[Path]) -> Any:
    """Return what `Csv._agreed` does, for a process that reads all tables."""
    schema = schema_from(scenario.columns, scenario.target, scenario.classes)
    rows = tuple(own_examples(schema, str(path), "", "", 0) for path in tables)
    return dataclasses.replace(scenario._agreed(), rows=rows)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"columns": ["age", "age"]}, "'age' is there twice"),
        ({"columns": ["age", "ill"]}, "'ill' is the target"),
        ({"columns": ["sex=f"]}, "two values or more"),
        ({"classes": ["1"]}, "two labels or more"),
        ({"sites": 2}, "1 of them are left to train"),
        ({"data": "x.csv"}, "leave out --data"),
        ({"columns": []}, "agree on task.target and task.columns"),
    ],
)
def test_what_sites_cannot_agree_on_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Csv(**(AGREED | changed)).clients()


def test_a_table_that_does_not_fit_names_file_column_and_row_and_no_value(tmp_path: Path) -> None:
    schema = schema_from(AGREED["columns"], "ill", ("0", "1"))
    path = write_table(tmp_path / "t.csv", 0)
    path.write_text(path.read_text().replace("20,f", "SECRET,f"))
    with pytest.raises(DataError, match=r"t.csv: column 'age', row 2: no number") as refusal:
        own_examples(schema, str(path), "", "", 0)
    assert "SECRET" not in str(refusal.value)
    with pytest.raises(DataError, match="14 rows; a site needs 15"):
        own_examples(schema, str(write_table(path, 0)), "", "", 13)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", r"t\.csv is empty"),
        ("age,sex,ill\n", r"t\.csv has a header and no row"),
        ("age,sex,ill\n30,f,1\n", r"t\.csv has 1 rows; a site needs 4"),
        ("age,sex,ill\n" + "30,f,1\n" * 8, r"t\.csv has rows of one class alone"),
    ],
)
def test_a_site_whose_table_is_no_client_is_refused(lines: str, words: str, tmp_path: Path) -> None:
    """In one process such a table is left out; a site has no other."""
    (tmp_path / "t.csv").write_text(lines)
    schema = schema_from(AGREED["columns"], "ill", ("0", "1"))
    with pytest.raises(DataError, match=words):
        own_examples(schema, str(tmp_path / "t.csv"), "", "", 0)


def test_a_site_without_a_table_says_what_to_write(tmp_path: Path) -> None:
    schema = schema_from(AGREED["columns"], "ill", ("0", "1"))
    with pytest.raises(ConfigurationError, match=r"below \[data\]"):
        own_examples(schema, "", "", "", 0)
    with pytest.raises(ConfigurationError, match="install the package"):
        own_examples(schema, "", "", "nowhere.at.all:load", 0)


def test_the_coordinator_needs_no_table() -> None:
    scenario = Csv(**AGREED)
    assert {split: len(numbers) for split, numbers in scenario.clients().items()} == {
        "train": 2, "validation": 0, "test": 1,
    }  # fmt: skip
    assert scenario.problem().metrics[0].name == "accuracy"
    assert scenario.rows().inputs == ("age", "sex=f", "sex=m")
    assert scenario.groups(2) == {"client": "site 2"}


def test_four_hospitals_need_their_own_file_each(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each site has one of the four files; nobody has a data folder, the server included."""
    run = {"scenario": "hospitals", "strategy": "fomaml", "rounds": 2, "client_batch": 1}
    execute(resolve(run | {"data_dir": str(data_dir)}), tmp_path / "plain")
    monkeypatch.setenv("FEDMAML_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FEDMAML_DATA", str(tmp_path / "nowhere"))
    files = []
    for number, name in enumerate(heart_disease.HOSPITALS):
        own = tmp_path / f"s{number}" / "data" / heart_disease.FOLDER
        own.mkdir(parents=True)
        shutil.copy(data_dir / heart_disease.FOLDER / f"processed.{name}.data", own)
        files.append(new_site(own.parents[1], number, 4, Data(folder=own.parent)))
    with ExitStack() as stack:
        for file in files:
            stack.enter_context(serving(file))
        run_at(files, run, "at-sites")
    assert theta(tmp_path / "runs" / "at-sites") == theta(tmp_path / "plain")
