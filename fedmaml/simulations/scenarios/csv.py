"""Tables of your own: CSV or Parquet files, one file for each client, or one column that names it.

    fedmaml run csv --data 'sites/*.csv' --target y

Clients that train, that validate and that test are different ones, drawn by the seed; files that
``task.unseen`` names are the test clients instead. A training client splits its rows anew in every
round, half support and half query; a test client adapts on ``shots`` rows, or on half of them, and
is evaluated on the others.

No client shows its rows: each training client sends counts, sums and sums of squares of its columns
once, with the roll call. From their totals come the means that replace missing numbers and the
scales that standardise, for all clients alike. The names of columns, categories and classes are
those of the training clients' files; a federation agrees on them beforehand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import nn

from fedmaml.core import losses, metrics, seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.figures import Figure, worst_decile
from fedmaml.core.learner import Problem
from fedmaml.core.networks import MLP, LinearModel
from fedmaml.core.params import Params
from fedmaml.core.settings import Files, settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets import tables
from fedmaml.simulations.datasets.sites import Sites, arranged, moments, standardised
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_HIDDEN = 32
_MANY = 30  # test clients, of which a tenth is enough to speak of
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 10}  # fmt: skip
_META = {"inner.lr": 0.1, "inner.steps": 5, "outer.lr": 0.005}


@settings
class Csv(Scenario):
    """Clients with tables of the same columns.

    Attributes:
        seed: Determines which clients train, and splits.
        data: Path of a file, or a pattern in quotes, e.g. 'sites/*.csv'.
        target: Column to predict.
        client: Column that names the client of each row; "": each file is one client.
        unseen: Path or pattern of further files, whose clients are the test clients.
        ignore: Columns that are no inputs, e.g. a patient's number.
        kind: "auto": classification if the target has text or few different whole numbers.
        network: "mlp", two layers of 32 tanh units, or "linear".
        shots: Rows on which a test client adapts; 0: half of them.
        examples: Most rows of a support, and of a query.
        validation: Fraction of the clients that validate.
        test: Fraction of the clients that test, unless ``unseen`` names them.
    """

    about: ClassVar[str] = "CSV or Parquet files of your own, one file for each client"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 200},
        "local": {"rounds": 0, "inner.lr": 0.3, "inner.steps": 100},
        "fedavg": _AVERAGING,
        "fedadam": {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "adam", "outer.lr": 0.005,
                    "adaptation.lr": 0.1, "adaptation.steps": 10},
        "fedprox": _AVERAGING | {"mu": 0.1},
        "reptile": _AVERAGING | {"outer.lr": 0.5},
        "fedrep": _AVERAGING | {"head.lr": 0.1, "head.steps": 10},
        "family:initialisation": _META,
    }  # fmt: skip

    seed: int = 0
    data: Files = ""
    target: str = ""
    client: str = ""
    unseen: Files = ""
    ignore: tuple[str, ...] = ()
    kind: Literal["auto", "classification", "regression"] = "auto"
    network: Literal["mlp", "linear"] = "mlp"
    shots: Annotated[int, Ge(0)] = 0
    examples: Annotated[int, Gt(1)] = 1000
    validation: Annotated[float, Ge(0), Le(0.9)] = 0.15
    test: Annotated[float, Gt(0), Le(0.9)] = 0.25

    def problem(self) -> Problem:
        schema = self._files.schema
        binary = len(schema.classes) == 2
        outputs = 1 if binary else max(1, len(schema.classes))

        def network() -> nn.Module:
            if self.network == "linear":
                return LinearModel(schema.width, outputs)
            return MLP((schema.width, _HIDDEN, _HIDDEN, outputs), torch.tanh)

        if schema.kind == "regression":
            rmse = replace(metrics.RMSE, unit=schema.target, scale=_target_scale)
            mae = replace(metrics.MAE, unit=schema.target, scale=_target_scale)
            return Problem(network, losses.half_squared_error, (rmse, mae, metrics.R2), l2=1e-4)
        if binary:
            found = (metrics.ACCURACY, metrics.BALANCED_ACCURACY, metrics.ROC_AUC, metrics.LOG_LOSS)
            return Problem(network, losses.binary_cross_entropy, found, l2=1e-4)
        return Problem(
            network, losses.cross_entropy,
            (metrics.ACCURACY, metrics.BALANCED_ACCURACY, metrics.LOG_LOSS),
            classes=len(schema.classes), l2=1e-4,
        )  # fmt: skip

    def clients(self) -> dict[Split, range]:
        train, validation, test = self._files.counts
        return {
            "train": range(train),
            "validation": range(train, train + validation),
            "test": range(train + validation, train + validation + test),
        }

    def statistics(self, client: int) -> Params:
        x, y = self._files.rows[client]
        x = x[:, self._files.schema.numbers]
        known = ~x.isnan()
        value = x.nan_to_num(0.0)
        found = {"count": known.sum(0).double(), "sum": value.sum(0), "squares": (value**2).sum(0)}
        if self._files.schema.kind == "regression":
            found["target"] = torch.stack([torch.tensor(float(len(y))), y.sum(), (y**2).sum()])
        return {name: value.double() for name, value in found.items()}

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape(
            {client: self._task(split, client, round, shared_statistics) for client in clients}
        )

    def references(self) -> tuple[Reference, ...]:
        schema = self._files.schema
        if schema.kind == "regression":
            mean = references.constant(references.NUMBERS)
            return (mean, references.ridge(), references.gradient_boosting(references.NUMBERS))
        if len(schema.classes) == 2:
            rate = references.constant(references.BINARY, "base rate")
            boosting = references.gradient_boosting(references.BINARY)
            return (rate, references.logistic_regression(), boosting)
        targets = references.classes(len(schema.classes))
        shares = references.constant(targets, "class shares")
        return (shares, references.gradient_boosting(targets))

    def figures(self) -> tuple[Figure, ...]:
        test = self._files.counts[2]
        return (worst_decile(self.problem().metrics[0]),) if test >= _MANY else ()

    def groups(self, client: int) -> Mapping[str, str]:
        return {"client": self._files.tables[client].client}

    def _task(self, split: Split, client: int, round: int, shared_statistics: Params) -> Task:
        x, y = self._files.rows[client]
        words = ("split", str(round)) if split == "train" else ("support",)
        draw = seeding.key(self.seed, "csv", *words)
        order = seeding.permutation(draw, [client], len(y))[0]
        cut = len(y) // 2 if split == "train" or not self.shots else self.shots
        rows = (order[:cut][: self.examples], order[cut:][: self.examples])
        if self._files.schema.kind == "regression":
            mean, scale = moments(*shared_statistics["target"])
            y = (y - mean) / scale
        return Task(
            *(Batch(standardised(x[some], self._files.schema, shared_statistics), y[some])
              for some in rows)
        )  # fmt: skip

    @cached_property
    def _files(self) -> Sites:
        if not (self.data and self.target):
            raise ConfigurationError(
                "scenario 'csv' needs your files and the column to predict: --data 'sites/*.csv' "
                "--target COLUMN"
            )
        known = tables.load(self.data, self.client)
        unseen = tables.load(self.unseen, self.client) if self.unseen else ()
        sites = arranged(
            known, unseen, self.target, self.client, self.ignore, self.kind,
            (self.validation, self.test), self.seed,
        )  # fmt: skip
        train, validation, _ = sites.counts
        for table in sites.tables[train + validation :]:
            if len(table) < self.shots + 2:
                raise ConfigurationError(
                    f"task.shots = {self.shots}: {table.name} has {len(table)} rows, and two must "
                    "be left to evaluate on; lower task.shots"
                )
        return sites


def _target_scale(shared_statistics: Params) -> float:
    return float(moments(*shared_statistics["target"])[1])
