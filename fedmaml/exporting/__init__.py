"""Export of runs to TensorBoard and MLflow.

Both exports read a run directory only. So they work for every back end, during a run and years
after it, and no run depends on them. Each is an extra: ``fedmaml[tensorboard]``,
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
