"""Adult: who earns more than 50,000 dollars a year, of 48,842 people of the US census of 1994.

Becker, Kohavi. Adult. UCI, 1996. doi:10.24432/C5XW20. CC BY 4.0.
"""

import csv
import gzip
from collections.abc import Iterator

import numpy as np

from fedmaml.simulations.datasets.files import DataFile, located, read_once

FEATURES = (
    "age", "age squared", "years of education", "hours a week", "log capital gain",
    "log capital loss", "married", "self-employed", "professional",
)  # fmt: skip
GROUPS = ("White men", "White women", "Black men", "Black women")
COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation",
    "relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week",
    "native-country", "income",
)  # fmt: skip
_PEOPLE = {"Male": "men", "Female": "women"}
_PROFESSIONAL = ("Prof-specialty", "Exec-managerial")
_ADDRESS = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
FILE = DataFile(
    "adult",
    "adult.csv.gz",
    "sha256:cb5366ec4b668ce7fb7ac6e348827d5ded4b5cef4eb5682393e0976f61aaa888",
    source="UCI, adult.data and adult.test as one table with a header",
)
PUBLISHED = (
    DataFile("adult", "adult.data", "md5:5d7c39d7b8804f071cdd1f2a7c460872",
             _ADDRESS + "adult.data", "UCI"),
    DataFile("adult", "adult.test", "md5:35238206dfdf7f1fe215bbb874adecdc",
             _ADDRESS + "adult.test", "UCI"),
)  # fmt: skip


@read_once
def load(data_dir: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (x, y) of each of `GROUPS`; rows in the order of the files.

    x: float64 ``(people, 9)``, columns `FEATURES`; y: float64 ``(people,)``, 1 for an income above
    50,000 dollars. People of other races are left out.

    Args:
        data_dir: Folder that holds a folder ``adult``; "" means the environment variable
            FEDMAML_DATA, and a download where that is not set either.

    Raises:
        DataError: If the files are missing and cannot be downloaded, or are not the originals.
    """
    rows = list(_rows(data_dir))
    groups = [f"{row['race']} {_PEOPLE[row['sex']]}" for row in rows]
    return {
        name: _arrays([row for row, group in zip(rows, groups, strict=True) if group == name])
        for name in GROUPS
    }


def _rows(folder: str) -> Iterator[dict[str, str]]:
    if folder:
        with gzip.open(located(FILE, folder), "rt", newline="") as lines:
            yield from csv.DictReader(lines)
        return
    for file in PUBLISHED:
        for line in located(file, folder).read_text().splitlines():
            cells = [cell.strip() for cell in line.split(",")]
            if len(cells) == len(COLUMNS):  # not the first line of the test file, nor an empty one
                row = dict(zip(COLUMNS, cells, strict=True))
                yield row | {"income": row["income"].rstrip(".")}


def _arrays(rows: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    x = [
        [float(row["age"]), float(row["age"]) ** 2, float(row["education-num"]),
         float(row["hours-per-week"]), np.log1p(float(row["capital-gain"])),
         np.log1p(float(row["capital-loss"])), row["marital-status"] == "Married-civ-spouse",
         row["workclass"].startswith("Self-emp"), row["occupation"] in _PROFESSIONAL]
        for row in rows
    ]  # fmt: skip
    return np.array(x, dtype=float), np.array([float(row["income"] == ">50K") for row in rows])
