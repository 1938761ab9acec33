"""COMPAS: who was arrested again within two years, of 7,214 people of Broward County.

Larson, Mattu, Kirchner, Angwin. How We Analyzed the COMPAS Recidivism Algorithm. ProPublica, 2016.
No licence is stated; derived from public records. The label is a new arrest, not a new crime.

Read from a folder it is the publisher's table without names, dates of birth and calendar dates;
downloaded it is the publisher's table, of which the same columns are read.
"""

import csv
import gzip
from io import StringIO

import numpy as np

from fedmaml.simulations.datasets.files import DataFile, located, read_once

FEATURES = (
    "age", "under 25", "male", "juvenile felonies", "juvenile misdemeanours",
    "juvenile others", "priors", "felony",
)  # fmt: skip
GROUPS = ("African-American", "Caucasian", "Hispanic", "Other")
_MAX_DAYS = 30  # between arrest and screening
FILE = DataFile(
    "compas",
    "compas_two_years_deid.csv.gz",
    "sha256:39074957065c6e97d8365fb8d9b662a7cddb3d6aa99667204dea6d5719d9b0f4",
    source="github.com/propublica/compas-analysis, compas-scores-two-years.csv without names",
)
PUBLISHED = DataFile(
    "compas",
    "compas-scores-two-years.csv",
    "sha256:c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d",
    "https://github.com/propublica/compas-analysis/raw/master/compas-scores-two-years.csv",
    "ProPublica",
)


@read_once
def load(data_dir: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (x, y) of each of `GROUPS`; rows in the order of the file.

    x: float64 ``(people, 8)``, columns `FEATURES`; y: float64 ``(people,)``, 1 for a new arrest.
    ProPublica's filter leaves 6,172 people; 42 Asians and Native Americans are left out.

    Args:
        data_dir: Folder that holds a folder ``compas``; "" means the environment variable
            FEDMAML_DATA, and a download where that is not set either.

    Raises:
        DataError: If the file is missing and cannot be downloaded, or is not the original.
    """
    path = located(FILE if data_dir else PUBLISHED, data_dir)
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    people = [row for row in csv.DictReader(StringIO(text.decode())) if _kept(row)]
    return {group: _arrays([row for row in people if row["race"] == group]) for group in GROUPS}


def _kept(row: dict[str, str]) -> bool:
    """ProPublica's filter: charged for the arrest that led to the score, and followed up."""
    days = row["days_b_screening_arrest"]
    return (
        days != ""
        and abs(float(days)) <= _MAX_DAYS
        and row["is_recid"] != "-1"
        and row["c_charge_degree"] != "O"
        and row["score_text"] not in ("", "N/A")
    )


def _arrays(rows: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    x = [
        [float(row["age"]), float(row["age"]) < 25, row["sex"] == "Male",
         *(float(row[f"juv_{kind}_count"]) for kind in ("fel", "misd", "other")),
         float(row["priors_count"]), row["c_charge_degree"] == "F"]
        for row in rows
    ]  # fmt: skip
    return np.array(x, dtype=float), np.array([float(row["two_year_recid"]) for row in rows])
