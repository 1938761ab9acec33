"""A site's examples as tensors, and what a model predicts as labels.

Inputs are raw: a `SiteNetwork` knows means and scales. Targets are as the loss takes them.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmaml.adapting.model import Model
from fedmaml.core.errors import DataError
from fedmaml.simulations import tabular
from fedmaml.simulations.datasets.given import numbers_of, table_of, targets_of
from fedmaml.simulations.datasets.rows import Rows
from fedmaml.simulations.datasets.schema import encode_inputs, encode_targets
from fedmaml.simulations.datasets.tables import Table, plain

SITE = "this site"
"""Name of the client in errors about arrays and frames."""


def inputs_of(model: Model, x: Any) -> Tensor:
    """Return raw inputs: float64 of tables, else as the network takes them.

    Args:
        model: Knows the columns.
        x: A `Table`, a frame, or numbers ``(rows, *features)``.

    Raises:
        DataError: If they do not fit; names column and row.
    """
    rows = model.rows
    if isinstance(x, Table) and rows is not None:
        return encode_inputs(x, rows.schema)
    if rows is not None and not rows.shape and hasattr(x, "columns"):
        return encode_inputs(table_of(SITE, x), rows.schema)
    if rows is None:
        return torch.from_numpy(numbers_of(SITE, x)).to(model.problem.dtype)
    columns = rows.schema.columns
    if any(column.categories for column in columns):
        raise DataError(
            "X is an array, and the model knows categories by their columns: give a pandas frame "
            f"with the columns {', '.join(column.name for column in columns)}"
        )
    return _flat(torch.from_numpy(numbers_of(SITE, x)), rows)


def targets_of_site(model: Model, y: Any) -> Tensor:
    """Return targets ``(rows,)`` as the loss takes them: class numbers, or standardised numbers.

    Args:
        model: Knows the classes, and the target's mean and scale.
        y: A `Table`, labels, or numbers.

    Raises:
        DataError: If one does not fit; names its row.
    """
    rows = model.rows
    if isinstance(y, Table) and rows is not None:
        encoded = encode_targets(y, rows.schema)
        return tabular.standard_targets(rows.schema, encoded, model.shared_statistics)
    if model.target == "numbers" and rows is None and np.ndim(y) > 1:
        return torch.as_tensor(np.asarray(y)).to(model.problem.dtype)  # several numbers a row
    labels = targets_of(SITE, y)
    if model.target == "numbers":
        numbers = torch.from_numpy(_as_numbers(labels))
        if rows is None:
            return _shaped(model, numbers.to(model.problem.dtype))
        return tabular.standard_targets(rows.schema, numbers, model.shared_statistics)
    numbers_of_classes = {plain(label): number for number, label in enumerate(classes_of(model))}
    found = [numbers_of_classes.get(plain(label), -1) for label in labels.tolist()]
    if -1 in found:
        raise DataError(
            f"y, row {found.index(-1)}: a class that the model does not know ({found.count(-1)} of "
            f"{len(found)} rows); it knows {', '.join(numbers_of_classes)}"
        )
    encoded = torch.tensor(found)
    return encoded.double() if model.target == "two classes" else encoded


def classes_of(model: Model) -> np.ndarray:
    """Return the labels in the order of the model's classes; numbers if all are."""
    if model.rows is None:
        return np.arange(model.problem.classes or 2)
    labels = np.array(model.rows.schema.classes)
    for kind in (int, float):
        try:
            return labels.astype(kind)
        except ValueError:
            continue
    return labels


def names_of(model: Model) -> np.ndarray | None:
    """Return the names of the columns of tables; None of arrays."""
    if model.rows is None or model.rows.shape:
        return None
    return np.array([column.name for column in model.rows.schema.columns], object)


def _flat(numbers: Tensor, rows: Rows) -> Tensor:
    """Return numbers ``(rows, entries)`` given as an array."""
    wanted = rows.shape or (len(rows.schema.columns),)
    if tuple(numbers.shape[1:]) != wanted:
        raise DataError(
            f"X has {numbers.shape[1]} features, but the model takes {wanted[0]}"
            if len(wanted) == numbers.ndim - 1 == 1
            else f"an example of X has shape {tuple(numbers.shape[1:])}, and the model takes "
            f"{wanted}"
        )
    return numbers.flatten(1)


def _shaped(model: Model, y: Tensor) -> Tensor:
    """Return targets ``(rows,)`` or ``(rows, 1)``, as the loss takes one number of each row."""
    column = y[:, None]
    losses = model.problem.loss(torch.zeros_like(column), column)
    return column if losses.shape == y.shape else y


def _as_numbers(labels: np.ndarray) -> np.ndarray:
    try:
        return labels.astype(float)
    except ValueError as error:
        raise DataError("y has text, and the model predicts numbers: give numbers") from error
