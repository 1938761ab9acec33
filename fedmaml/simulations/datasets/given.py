"""Examples as people give them, arrays, tensors and frames: checked, in the forms of `arrays`.

Errors name client and row, counted from 0, and never a value.
"""

from typing import Any

import numpy as np
import torch

from fedmaml.core.errors import DataError
from fedmaml.simulations.datasets.arrays import Arrays
from fedmaml.simulations.datasets.tables import Table, plain


def arrays_of(name: str, x: Any, y: Any) -> Arrays:
    """Return the examples of a client, given as arrays or tensors.

    Args:
        name: Of the client.
        x: Numbers ``(rows, *features)``.
        y: Labels or numbers ``(rows,)``.

    Raises:
        DataError: If one does not fit; so do the functions below.
    """
    inputs, targets = numbers_of(name, x), targets_of(name, y)
    _check_rows(name, inputs.shape, len(targets))
    return Arrays(name, inputs, targets)


def numbers_of(name: str, x: Any) -> np.ndarray:
    """Return inputs as float64; NaN where a number is missing."""
    inputs = _array(x)
    if inputs.dtype.kind not in "biuf":
        raise DataError(
            f"client {name!r}: X has {inputs.dtype}, no numbers; a pandas frame may have columns "
            "of text, which become categories"
        )
    if inputs.ndim < 2 or not all(inputs.shape[1:]):
        raise DataError(f"client {name!r}: X has shape {inputs.shape}; give (rows, *features)")
    numbers = inputs.astype(float)
    wrong = np.isinf(numbers).reshape(len(numbers), -1).any(1)
    if wrong.any():
        raise DataError(
            f"client {name!r}, row {int(wrong.argmax())}: X is infinite; give a number, or NaN for "
            "a missing one"
        )
    return numbers


def table_of(name: str, x: Any, y: Any = None, target: str = "") -> Table:
    """Return the examples of a client, given as a frame.

    Args:
        name: Of the client.
        x: A pandas frame.
        y: Labels or numbers ``(rows,)``; None: there are none.
        target: Name of the column that they become.
    """
    if len(x.shape) < 2 or not x.shape[1]:
        raise DataError(f"client {name!r}: X has shape {x.shape}; give (rows, *features)")
    rows = x.rename(columns=str).reset_index(drop=True)
    doubled = rows.columns[rows.columns.duplicated()]
    if len(doubled):
        raise DataError(f"client {name!r}: column {doubled[0]!r} is there twice; rename one")
    if y is not None:
        labels = targets_of(name, y)
        _check_rows(name, x.shape, len(labels))
        rows[target] = list(labels)
    return Table(f"client {name!r}", name, rows.map(plain, na_action="ignore"))


def targets_of(name: str, y: Any) -> np.ndarray:
    """Return targets ``(rows,)``; those of type object become text."""
    labels = _array(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"client {name!r}: y has shape {labels.shape}; give (rows,)")
    missing = np.array([one is None or one != one for one in labels.tolist()])
    if missing.any() or (labels.dtype.kind == "f" and np.isinf(labels).any()):
        row = int(missing.argmax() if missing.any() else np.isinf(labels).argmax())
        raise DataError(f"client {name!r}, row {row}: y is missing or infinite; remove the row")
    return labels.astype(str) if labels.dtype.kind == "O" else labels


def _check_rows(name: str, shape: tuple[int, ...], rows: int) -> None:
    if shape[0] != rows:
        raise DataError(f"client {name!r}: X has {shape[0]} rows and y {rows}; give the same")


def _array(given: Any) -> np.ndarray:
    if isinstance(given, torch.Tensor):
        return given.detach().cpu().numpy()
    return np.asarray(given)
