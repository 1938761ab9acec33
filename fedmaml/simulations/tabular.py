"""What scenarios of tables have in common, wherever the tables come from: files, arrays, frames.

Each function is a verb of `Scenario` for clients that `datasets.sites` arranged.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from fedmaml.core import losses, metrics, seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.figures import Figure, worst_decile
from fedmaml.core.learner import Problem
from fedmaml.core.networks import MLP, LinearModel
from fedmaml.core.params import Params
from fedmaml.core.tasks import Batch, Task
from fedmaml.simulations import references
from fedmaml.simulations.datasets.moments import moments, standardised, sums
from fedmaml.simulations.datasets.schema import Schema
from fedmaml.simulations.datasets.sites import Sites
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Split

_HIDDEN = 32
_MANY = 30  # test clients, of which a tenth is enough to speak of
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 10}  # fmt: skip
_META = {"inner.lr": 0.1, "inner.steps": 5, "outer.lr": 0.005}

RECIPES: Recipes = {
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


def network(schema: Schema, kind: Literal["mlp", "linear", "own"]) -> Callable[[], nn.Module]:
    """Return what makes a network by name, not "own": one output for a number or two classes."""
    outputs = len(schema.classes) if len(schema.classes) > 2 else 1
    if kind == "linear":
        return partial(LinearModel, schema.width, outputs)
    return partial(MLP, (schema.width, _HIDDEN, _HIDDEN, outputs), torch.tanh)


def problem(schema: Schema, made: Callable[[], nn.Module]) -> Problem:
    """Return the problem with the loss and the metrics that suit the target."""
    if schema.kind == "regression":
        rmse = replace(metrics.RMSE, unit=schema.target, scale=target_scale)
        mae = replace(metrics.MAE, unit=schema.target, scale=target_scale)
        return Problem(made, losses.half_squared_error, (rmse, mae, metrics.R2), l2=1e-4)
    if len(schema.classes) == 2:
        found = (metrics.ACCURACY, metrics.BALANCED_ACCURACY, metrics.ROC_AUC, metrics.LOG_LOSS)
        return Problem(made, losses.binary_cross_entropy, found, l2=1e-4)
    several = (metrics.ACCURACY, metrics.BALANCED_ACCURACY, metrics.LOG_LOSS)
    return Problem(made, losses.cross_entropy, several, classes=len(schema.classes), l2=1e-4)


def clients(sites: Sites) -> dict[Split, range]:
    """Return the client numbers of each split."""
    return numbered(*sites.counts)


def statistics(sites: Sites, client: int) -> Params:
    """Return counts, sums and sums of squares of a client's columns of numbers, and its target."""
    x, y = sites.rows[client]
    found = sums(x[:, sites.schema.numbers])
    if sites.schema.kind == "regression":
        found["target"] = torch.stack([torch.tensor(float(len(y))), y.sum(), (y**2).sum()])
    return {name: value.double() for name, value in found.items()}


def task(
    sites: Sites,
    split: Split,
    client: int,
    round: int,
    shared_statistics: Params,
    seed: int,
    sizes: tuple[int, int],
) -> Task:
    """Return a client's task: its rows split anew in every round of training.

    Args:
        sites: The clients.
        split: Of the client; in all but "train" the split of its rows is fixed.
        client: Its number.
        round: From 1.
        shared_statistics: Totals of `statistics`.
        seed: Determines the split.
        sizes: Rows on which a client that does not train adapts (0: half of them), and the most
            rows of a support and of a query.
    """
    x, y = sites.rows[client]
    shots, most = sizes
    words = ("split", str(round)) if split == "train" else ("support",)
    draw = seeding.key(seed, "csv", *words)
    order = seeding.permutation(draw, [client], len(y))[0]
    cut = len(y) // 2 if split == "train" or not shots else shots
    rows = (order[:cut][:most], order[cut:][:most])
    y = standard_targets(sites.schema, y, shared_statistics)
    inputs = (standard_inputs(sites.schema, x[some], shared_statistics) for some in rows)
    return Task(*(Batch(x, y[some]) for x, some in zip(inputs, rows, strict=True)))


def standard_inputs(schema: Schema, x: Tensor, shared_statistics: Params) -> Tensor:
    """Return inputs whose numbers have mean 0 and scale 1, missing ones 0; ``(rows, width)``."""
    numbers, x = list(schema.numbers), x.clone()
    x[:, numbers] = standardised(x[:, numbers], shared_statistics)
    return x


def standard_targets(schema: Schema, y: Tensor, shared_statistics: Params) -> Tensor:
    """Return targets with mean 0 and scale 1 of a regression, class numbers as they are."""
    if schema.kind != "regression":
        return y
    mean, scale = moments(*shared_statistics["target"])
    return (y - mean) / scale


def references_of(schema: Schema) -> tuple[Reference, ...]:
    """Return the references that suit the target."""
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


def figures(sites: Sites, of: Problem) -> tuple[Figure, ...]:
    """Return the worst decile, if there are clients enough to speak of one."""
    return (worst_decile(of.metrics[0]),) if sites.counts[2] >= _MANY else ()


def refuse_shots(sites: Sites, shots: int) -> None:
    """Refuse more shots than leave a test client two rows to evaluate on.

    Raises:
        ConfigurationError: Names the client.
    """
    for client in clients(sites)["test"]:
        rows = len(sites.rows[client][1])
        if rows < shots + 2:
            raise ConfigurationError(
                f"task.shots = {shots}: {sites.names[client]} has {rows} rows, and two must "
                "be left to evaluate on; lower task.shots"
            )


def target_scale(shared_statistics: Params) -> float:
    """Return one standard deviation of the target, in its own unit."""
    return float(moments(*shared_statistics["target"])[1])
