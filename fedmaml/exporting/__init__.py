"""Runs for the viewers that people have already: TensorBoard and MLflow.

Both are fed with what a run directory holds, so it works for every back end, during a run and years
after it, and no run ever depends on it. Each is an extra: ``fedmaml[tensorboard]``,
``fedmaml[mlflow]``.
"""

from fedmaml.exporting.records import Point, Recorded, followed, names_of, recorded
from fedmaml.exporting.to_mlflow import to_mlflow
from fedmaml.exporting.to_tensorboard import to_tensorboard

SINKS = ("tensorboard", "mlflow")

__all__ = [
    "SINKS",
    "Point",
    "Recorded",
    "followed",
    "names_of",
    "recorded",
    "to_mlflow",
    "to_tensorboard",
]
