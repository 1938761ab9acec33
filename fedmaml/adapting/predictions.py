"""Predictions for the rows of a table, as a CSV file and as plain values."""

import csv
import io
from typing import Any

from fedmaml.adapting.estimators import SiteClassifier, SiteModel
from fedmaml.simulations.datasets.tables import Table

_OF = "probability of "


def as_records(model: SiteModel, table: Table) -> list[dict[str, Any]]:
    """Return row, prediction and, of a classifier, probabilities by class, for each row.

    Raises:
        DataError: If a value does not fit; names file, column and row.
    """
    rows = csv.DictReader(io.StringIO(as_csv(model, table)))
    if not isinstance(model, SiteClassifier):
        return [{"row": int(each["row"]), "prediction": float(each["prediction"])} for each in rows]
    return [
        {
            "row": int(each["row"]),
            "prediction": each["prediction"],
            "probabilities": {str(label): float(each[f"{_OF}{label}"]) for label in model.classes_},
        }
        for each in rows
    ]


def as_csv(model: SiteModel, table: Table) -> str:
    """Return one line for each row: its number in the file, prediction, probabilities of classes.

    Raises:
        DataError: If a value does not fit; names file, column and row.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if isinstance(model, SiteClassifier):
        names = [f"{_OF}{label}" for label in model.classes_]
        writer.writerow(["row", "prediction", *names])
        probabilities = model.predict_proba(table)
        labels = model.classes_[probabilities.argmax(1)]
        for row, label, each in zip(table.rows.index, labels, probabilities, strict=True):
            writer.writerow([row, label, *(f"{value:.6g}" for value in each)])
    else:
        writer.writerow(["row", "prediction"])
        for row, value in zip(table.rows.index, model.predict(table), strict=True):
            writer.writerow([row, f"{value:.9g}"])
    return buffer.getvalue()
