"""UCI Heart Disease: 303 + 294 + 123 + 200 patients of four hospitals.

Janosi, Steinbrunn, Pfisterer, Detrano. Heart Disease. UCI, 1988. doi:10.24432/C52P4X. CC BY 4.0.
Federated use: Ogier du Terrail et al. FLamby. NeurIPS 2022.

Read from a local copy if there is one, else downloaded once and cached; both are checked against
the SHA-256 sums below. In the files ``?`` is missing; cholesterol 0 and blood pressure 0 mean
missing, too (all patients of Switzerland, a quarter of Long Beach).
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, data_folder, located

FOLDER = "heart_disease"
ADDRESS = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
DIGESTS = {
    "cleveland": "sha256:a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    "hungarian": "sha256:d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    "switzerland": "sha256:834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    "va": "sha256:e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
}
COLUMNS = (
    "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak",
    "slope", "ca", "thal", "num",
)  # fmt: skip
FEATURES = (
    "age", "trestbps", "thalach", "oldpeak", "chol", "sex", "exang", "fbs",
    "cp=1", "cp=2", "cp=3", "restecg=1", "restecg=2",
    "chol missing", "exang missing", "oldpeak missing",
)  # fmt: skip


def load(data_dir: str = "") -> tuple[tuple[Tensor, Tensor], ...]:
    """Return (x, y) of each hospital, in the order of `HOSPITALS`.

    x: float64 ``(patients, 16)``, columns `FEATURES`, NaN where missing; y: float64
    ``(patients,)``, 1 for disease (``num > 0``). The columns slope, ca and thal are left
    out: hardly anyone but Cleveland recorded them.

    Args:
        data_dir: Folder that holds a folder ``heart_disease``; "" means the environment variable
            FEDMAML_DATA, and a download where that is not set either.

    Raises:
        DataError: If the files are missing and cannot be downloaded, or are not the originals.
    """
    return tuple(load_one(number, data_dir) for number in range(len(HOSPITALS)))


def load_one(number: int, data_dir: str = "") -> tuple[Tensor, Tensor]:
    """Return (x, y) of one hospital; its file alone is read, so a site needs no other's.

    Args:
        number: In the order of `HOSPITALS`.
        data_dir: As in `load`.

    Raises:
        DataError: As in `load`.
    """
    return _load(HOSPITALS[number], data_folder(data_dir))


@lru_cache(maxsize=4 * len(HOSPITALS))
def _load(hospital: str, folder: str) -> tuple[Tensor, Tensor]:
    return _features(_table(_file(hospital, folder)))


def _file(hospital: str, folder: str) -> Path:
    name = f"processed.{hospital}.data"
    return located(DataFile(FOLDER, name, DIGESTS[hospital], ADDRESS + name, "UCI"), folder)


def _table(path: Path) -> dict[str, np.ndarray]:
    rows = [line.split(",") for line in path.read_text().split()]
    values = np.array([[np.nan if cell == "?" else float(cell) for cell in row] for row in rows])
    return dict(zip(COLUMNS, values.T, strict=True))


def _features(table: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    for column in ("chol", "trestbps"):
        table[column] = np.where(table[column] == 0, np.nan, table[column])
    columns = [table[name] for name in FEATURES[:8]]
    columns += [_equals(table["cp"], value) for value in (1, 2, 3)]
    columns += [_equals(table["restecg"], value) for value in (1, 2)]
    columns += [np.isnan(table[name]).astype(float) for name in ("chol", "exang", "oldpeak")]
    disease = (table["num"] > 0).astype(float)
    return torch.from_numpy(np.stack(columns, axis=1)), torch.from_numpy(disease)


def _equals(column: np.ndarray, value: int) -> np.ndarray:
    return np.where(np.isnan(column), np.nan, column == value)
