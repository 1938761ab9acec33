"""Twelve files of patients for the scenario csv: numbers, words, missing values, unlike sizes."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

HEADER = ("age", "sex", "stage", "y", "days")


def rows_of(rng: np.random.Generator, count: int) -> list[list[Any]]:
    """Return patients whose disease depends on age, sex and stage, some values missing."""
    made = []
    for _ in range(count):
        age, sex, stage = rng.normal(60, 10), rng.integers(2), rng.integers(3)
        score = (age - 60) / 10 + sex + (stage == 2) + 0.3 * rng.normal()
        made.append([
            "" if rng.random() < 0.1 else f"{age:.4f}", "mf"[sex], ("I", "II", "III")[stage],
            "ill" if score > 0.5 else "well", f"{10 + 3 * score:.3f}",
        ])  # fmt: skip
    return made


def write(path: Path, rows: list[list[Any]], header: Any = HEADER, **how: Any) -> None:
    with path.open("w", newline="", encoding=how.pop("encoding", "utf-8")) as file:
        csv.writer(file, **how).writerows([header, *rows])


def write_sites(folder: Path) -> Path:
    """Write the files; return their folder."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for site in range(12):
        write(folder / f"s{site:02}.csv", rows_of(rng, 10 + 5 * site))
    return folder
