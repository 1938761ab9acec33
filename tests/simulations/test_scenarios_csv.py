"""Tables of one's own: what is read, what is refused, and that values are never shown."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmaml.config import load_toml, resolve
from fedmaml.core.errors import ConfigurationError, DataError, FedmamlError
from fedmaml.running import execute
from fedmaml.simulations.datasets import schema as schemas
from fedmaml.simulations.datasets import tables
from fedmaml.simulations.scenarios import Csv
from tests.tables import HEADER, rows_of, write, write_sites

pytest.importorskip("pandas")


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    return write_sites(tmp_path / "sites")


def scenario(sites: Path, **settings: Any) -> Csv:
    given = {"data": str(sites / "*.csv"), "target": "y", "ignore": ("days",)} | settings
    return Csv(**given)


def shared(some: Csv) -> dict[str, torch.Tensor]:
    each = [some.statistics(client) for client in some.clients()["train"]]
    return {name: sum(one[name] for one in each) for name in each[0]}


def test_files_become_clients_that_train_validate_and_test(sites: Path) -> None:
    one, other = scenario(sites), scenario(sites, seed=1)
    assert {name: len(part) for name, part in one.clients().items()} == {
        "train": 7, "validation": 2, "test": 3,
    }  # fmt: skip
    names = [one.groups(client)["client"] for client in range(12)]
    assert sorted(names) == [f"s{site:02}" for site in range(12)]
    assert names != [other.groups(client)["client"] for client in range(12)]


def test_inputs_are_standardised_by_the_training_clients_alone(sites: Path) -> None:
    some = scenario(sites)
    totals = shared(some)
    drawn = [
        batch.x
        for group in some.tasks("train", some.clients()["train"], 1, totals)
        for batch in group.tasks
    ]
    ages = torch.cat([x[..., 0].flatten() for x in drawn])
    known = ages[ages != 0]  # a missing age is the mean
    assert 0 < len(ages) - len(known) < 0.2 * len(ages)
    assert known.mean().abs() < 1e-6
    assert abs(known.std(correction=0) - 1) < 1e-6
    one_hot = torch.cat([x[..., 1:].flatten(0, 1) for x in drawn])
    assert set(one_hot.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(one_hot.sum(1), torch.full((len(one_hot),), 2.0, dtype=torch.float64))


def test_training_splits_anew_and_evaluation_does_not(sites: Path) -> None:
    some = scenario(sites, shots=4)
    totals, test = shared(some), some.clients()["test"][:1]

    def support(split: Any, client: range, round: int) -> torch.Tensor:
        return some.tasks(split, client, round, totals)[0].tasks.support.x

    train = range(1)
    assert not torch.equal(support("train", train, 1), support("train", train, 2))
    assert torch.equal(support("test", test, 1), support("test", test, 2))
    assert support("test", test, 1).shape[1] == 4


@pytest.mark.parametrize(
    ("target", "kind", "classes"),
    [("y", "classification", ("ill", "well")), ("days", "regression", ())],
)
def test_kind_follows_from_the_target(
    sites: Path, target: str, kind: str, classes: tuple[str, ...]
) -> None:
    found = schemas.schema_of(tables.load(str(sites / "*.csv")), target, "auto")
    assert (found.kind, found.classes) == (kind, classes)
    assert [bool(column.categories) for column in found.columns][:3] == [False, True, True]


def test_errors_are_in_the_targets_own_unit(sites: Path, tmp_path: Path) -> None:
    given = {"scenario": "csv", "strategy": "maml", "rounds": 60, "task.ignore": ["y"]}
    data = {"task.data": str(sites / "*.csv"), "task.target": "days"}
    summary = execute(resolve(given, data), tmp_path / "run")
    metric = summary["metric"]
    assert (metric["name"], metric["unit"]) == ("rmse", "days")
    assert metric["after"] < 0.6 * 4.2  # 4.2: standard deviation of days
    references = (tmp_path / "run" / "references.json").read_text()
    for name in ("constant", "local ridge", "pooled gradient boosting"):
        assert f'"{name}"' in references


def test_one_file_with_a_column_of_clients_gives_the_same_tasks(sites: Path) -> None:
    files = sorted(sites.glob("*.csv"))
    rows = [
        [path.stem, *row]
        for path in files
        for row in list(csv.reader(path.read_text().splitlines()))[1:]
    ]  # fmt: skip
    one = sites.parent / "all.csv"
    write(one, rows, ("site", *HEADER))
    apart, together = scenario(sites), scenario(sites, data=str(one), client="site")
    totals = shared(apart)
    for left, right in zip(
        apart.tasks("test", apart.clients()["test"], 1, totals),
        together.tasks("test", together.clients()["test"], 1, shared(together)),
        strict=True,
    ):
        assert torch.equal(left.tasks.support.x, right.tasks.support.x)
        assert torch.equal(left.tasks.query.y, right.tasks.query.y)


def test_unseen_files_are_the_test_clients(sites: Path) -> None:
    unseen = sites.parent / "unseen.csv"
    write(unseen, rows_of(np.random.default_rng(7), 30))
    some = scenario(sites, unseen=str(unseen))
    assert len(some.clients()["train"]) == 10
    assert [some.groups(client)["client"] for client in some.clients()["test"]] == ["unseen"]


def test_separators_byte_order_marks_and_parquet_are_the_same_table(tmp_path: Path) -> None:
    rows = rows_of(np.random.default_rng(1), 20)
    write(tmp_path / "a.csv", rows)
    write(tmp_path / "b.csv", rows, delimiter=";", encoding="utf-8-sig")
    write(tmp_path / "c.csv", rows, delimiter="\t", lineterminator="\r\n")
    expected = tables.load(str(tmp_path / "a.csv"))
    schema = schemas.schema_of(expected, "y", "auto")
    x, y = schemas.encode(expected[0], schema)
    import pandas

    frame = pandas.read_csv(tmp_path / "a.csv")
    frame.to_parquet(tmp_path / "d.parquet")
    for name in ("b.csv", "c.csv", "d.parquet"):
        (table,) = tables.load(str(tmp_path / name))
        found_x, found_y = schemas.encode(table, schema)
        torch.testing.assert_close(found_x, x, equal_nan=True, rtol=0, atol=0)
        assert torch.equal(found_y, y)


def changed(sites: Path, line: int, text: str) -> None:
    path = sites / "s05.csv"
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


SECRET = "4711-0815"


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (7, f"{SECRET},m,I,ill,3", r"s05\.csv: column 'age', row 7: no number, and the column "
         r"holds numbers \(1 of 35 rows\)"),
        (9, "61,m,I,,3", r"s05\.csv: column 'y', row 9: the target is missing \(1 of 35 rows\)"),
        (1, "age,sex,stage,y,day", r"not the columns of the other clients: it lacks days"),
        (1, "age,sex,sex,y,days", r"column 'sex' stands twice in the header"),
        (4, f"61,m,I,ill,3,{SECRET}", r"s05\.csv is no table: .*line 4, saw 6 \(5 columns"),
        (1, "age,,stage,y,days", r"column 2 has no name in the header"),
    ],
)  # fmt: skip
def test_a_bad_table_is_named_by_file_column_and_row(
    sites: Path, line: int, text: str, message: str
) -> None:
    changed(sites, line, text)
    with pytest.raises(FedmamlError, match=message) as caught:
        scenario(sites, ignore=()).clients()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("digits", [0, 2])
def test_decimal_commas_are_named_and_are_no_categories(
    sites: Path, digits: int, tmp_path: Path
) -> None:
    for path in sites.glob("*.csv"):
        header, *lines = path.read_text().replace(",", ";").splitlines()
        rows = [line.split(";") for line in lines]
        for number, row in enumerate(rows):
            row[0] = f"{float(row[0] or 50):.0f}" + f",{number % 10**digits}" * (number > 1)
        path.write_text("\n".join([header, *map(";".join, rows)]) + "\n")
    message = r"s\d+\.csv: column 'age', row 4: a decimal comma; save"
    with pytest.raises(DataError, match=message):
        scenario(sites).clients()


NO_ROWS = "age,sex,stage,y,days\n"
ONE_ROW = NO_ROWS + "60,m,I,ill,3\n"
ONE_CLASS = NO_ROWS + "60,m,I,ill,3\n" * 9


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no rows"), ("\n \n", "no rows"), (NO_ROWS, "no rows"),
        (ONE_ROW, "fewer than 4 rows"), (ONE_CLASS, "one class alone"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_client_is_left_out_and_the_others_are_as_without_it(
    sites: Path, content: str, reason: str
) -> None:
    (sites / "s05.csv").unlink()
    without = scenario(sites)
    totals, test = shared(without), without.clients()["test"]
    expected = without.tasks("test", test, 1, totals)
    (sites / "s05.csv").write_text(content)
    some = scenario(sites)
    assert some.left_out() == {"s05": reason}
    assert some.clients() == without.clients()
    for found, group in zip(some.tasks("test", test, 1, shared(some)), expected, strict=True):
        assert torch.equal(found.tasks.query.x, group.tasks.query.x)


def test_a_parquet_file_without_a_byte_is_empty_and_a_damaged_one_is_refused(sites: Path) -> None:
    (sites / "s12.parquet").touch()
    assert scenario(sites, data=str(sites / "s*")).left_out() == {"s12": "no rows"}
    (sites / "s12.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"s12\.parquet cannot be read as Parquet"):
        scenario(sites, data=str(sites / "s*")).clients()


def test_one_class_is_no_reason_where_numbers_are_predicted(sites: Path) -> None:
    (sites / "s05.csv").write_text(ONE_CLASS)
    assert scenario(sites, target="days", ignore=("y",)).left_out() == {}
    assert scenario(sites).left_out() == {"s05": "one class alone"}
    assert len(scenario(sites, target="days", ignore=("y",)).groups(3)["client"]) == 3


def test_clients_of_one_file_are_left_out_by_their_names(sites: Path) -> None:
    one = sites / "all.csv"
    rows = [["hall", "60", "m", "I", "ill", "3"]] * 5 + [["ward", "61", "f", "I", "ill", "4"]] * 2
    rng = np.random.default_rng(3)
    rows += [[f"site {site}", *row] for site in range(9) for row in rows_of(rng, 20)]
    write(one, rows, ("site", *HEADER))
    some = scenario(sites, data=str(one), client="site")
    assert some.left_out() == {"hall": "one class alone", "ward": "fewer than 4 rows"}
    assert sum(map(len, some.clients().values())) == 9


def test_too_few_that_are_left_are_refused_with_those_that_are_left_out(sites: Path) -> None:
    for path in sorted(sites.glob("*.csv"))[2:]:
        path.write_text("")
    with pytest.raises(
        ConfigurationError, match=r"has 2 clients, and 1 .*; left out 10 "
        r"\('s02': no rows, 's03': .*\.\.\.\): mend these, or add files"
    ):  # fmt: skip
        scenario(sites).clients()


def test_unseen_files_that_cannot_test_are_not_replaced_by_others(sites: Path) -> None:
    unseen = sites.parent / "unseen.csv"
    unseen.write_text(ONE_ROW)
    with pytest.raises(
        ConfigurationError, match=r"no client of task.unseen can test \('unseen': fewer than 4 rows"
    ):
        scenario(sites, unseen=str(unseen)).clients()


@pytest.mark.parametrize(
    ("content", "message"),
    [("", r"s05\.csv is empty; remove it"), (NO_ROWS, r"s05\.csv has a header and no row")],
)
def test_where_one_file_is_asked_for_an_empty_one_is_refused(
    sites: Path, content: str, message: str
) -> None:
    (sites / "s05.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        tables.load(str(sites / "s05.csv"))


def test_a_file_that_is_not_utf_8_is_named(sites: Path) -> None:
    (sites / "s05.csv").write_bytes(NO_ROWS.encode() + b"60,\xff,I,ill,3\n")
    with pytest.raises(DataError, match=r"s05\.csv, row 2: not UTF-8"):
        scenario(sites).clients()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "z"}, r"no column 'z' in .*s\d\d\.csv; it has age, sex, stage, y, days"),
        ({"ignore": ("age", "sex", "stage", "days")}, "has no column but the target 'y'"),
        ({"data": "nothing/*.csv"}, r"no file '/.*/nothing/\*\.csv': give the path of a CSV"),
        ({"shots": 64}, r"task\.shots = 64: .*\.csv has \d+ rows, and two must be left"),
        ({"client": "ward"}, r"no column 'ward' in "),
        ({"data": ""}, "scenario 'csv' needs your files and the column to predict"),
    ],
)
def test_settings_that_do_not_fit_the_files_are_refused(
    sites: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        scenario(sites, **settings).clients()


def test_one_class_everywhere_and_a_class_of_a_test_client_alone_are_refused(
    tmp_path: Path,
) -> None:
    rows = [[str(60 + i), "m", "I", "ill", str(i)] for i in range(8)]
    for name in "abcd":
        write(tmp_path / f"{name}.csv", rows)
    with pytest.raises(DataError, match="column 'y' has one value in all files of training"):
        scenario(tmp_path).clients()
    for name in "abcd":
        write(tmp_path / f"{name}.csv", [*rows, ["70", "f", "II", "well", "9"]])
    write(tmp_path / "new.csv", [*rows, ["70", "f", "II", "unknown", "9"]])
    some = scenario(tmp_path, data=str(tmp_path / "?.csv"), unseen=str(tmp_path / "new.csv"))
    with pytest.raises(DataError, match=r"new\.csv: column 'y', row 10: a class that no training"):
        some.clients()


def test_names_in_a_column_of_text_are_refused(sites: Path) -> None:
    rng = np.random.default_rng(3)
    for path in sites.glob("*.csv"):
        write(path, [[f"p{rng.integers(10**9)}", *row] for row in rows_of(rng, 30)],
              ("name", *HEADER))  # fmt: skip
    with pytest.raises(ConfigurationError, match=r'leave it out with --set task\.ignore=\["name"'):
        scenario(sites).clients()


def test_a_federation_on_nodes_finds_the_files(
    sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sites.parent)
    config = resolve({
        "scenario": "csv", "strategy": "fomaml", "rounds": 2, "workers": 2,
        "client_batch": 3,
        "task.data": "sites/*.csv", "task.target": "y", "task.ignore": ["days"],
    })  # fmt: skip
    assert config.task["data"] == str(sites / "*.csv")
    assert execute(config, tmp_path / "run")["metric"]["name"] == "accuracy"
    assert resolve(load_toml(tmp_path / "run" / "config.toml")) == config
