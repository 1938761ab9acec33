"""Clients with tables: which of them train, validate and test, and their numbers standardised."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.params import Params
from fedmaml.simulations.datasets.schema import Schema, encode, schema_of
from fedmaml.simulations.datasets.tables import Table

_FEWEST_ROWS = 4  # of a client: two to adapt on, two to be evaluated on


@dataclass(frozen=True)
class Sites:
    """The clients' tables.

    Attributes:
        tables: By client number: first those that train, then those that validate, then test.
        rows: Their inputs and targets.
        counts: Number of clients that train, validate and test.
        schema: Found in those that train.
    """

    tables: tuple[Table, ...]
    rows: tuple[tuple[Tensor, Tensor], ...]
    counts: tuple[int, int, int]
    schema: Schema


@lru_cache(maxsize=4)
def arranged(
    known: tuple[Table, ...],
    unseen: tuple[Table, ...],
    target: str,
    client: str,
    ignored: tuple[str, ...],
    kind: Literal["auto", "classification", "regression"],
    fractions: tuple[float, float],
    seed: int,
) -> Sites:
    """Draw which clients train, validate and test, and encode their tables.

    Args:
        known: Tables of clients of which some train.
        unseen: Tables of further clients, which test; () draws test clients, too.
        target: Column to predict.
        client: Column that names clients; "" for none.
        ignored: Columns that are no inputs.
        kind: Of the problem.
        fractions: Of the known clients that validate, and that test.
        seed: Of the draw.

    Raises:
        ConfigurationError: If too few are left to train.
        DataError: If a table does not fit; names file, column and row.
    """
    if doubled := {table.name for table in known} & {table.name for table in unseen}:
        raise ConfigurationError(
            f"{min(doubled)} is in task.data and in task.unseen: a client cannot train and be "
            "unseen; give patterns that share no file"
        )
    for table in (*known, *unseen):
        if len(table) < _FEWEST_ROWS:
            raise DataError(
                f"{table.name} has {len(table)} {'row' if len(table) == 1 else 'rows'}; a client "
                f"needs {_FEWEST_ROWS}, two to adapt on and two to be evaluated on: remove it, or "
                "add rows"
            )
    validation, test = (round(fraction * len(known)) for fraction in fractions)
    test = 0 if unseen else max(1, test)
    train = len(known) - validation - test
    if train < 2:
        raise ConfigurationError(
            f"task.data has {len(known)} clients, and {train} of them are left to train: at least "
            "2 must be; add files, lower task.validation and task.test, or, if one file holds "
            "several clients, name the column that tells them apart (--client)"
        )
    order = seeding.permutation(seeding.key(seed, "csv", "clients"), [0], len(known))[0]
    drawn = tuple(known[int(i)] for i in order) + unseen
    schema = schema_of(drawn[:train], target, kind, ignored, client)
    rows = tuple(encode(table, schema) for table in drawn)
    return Sites(drawn, rows, (train, validation, test or len(unseen)), schema)


def standardised(x: Tensor, schema: Schema, shared_statistics: Params) -> Tensor:
    """Return numbers as (x - mean) / scale, and 0, the mean, where one is missing."""
    mean, scale = moments(*(shared_statistics[name] for name in ("count", "sum", "squares")))
    numbers = list(schema.numbers)
    standard = x.clone()
    standard[:, numbers] = ((x[:, numbers] - mean) / scale).nan_to_num(0.0)
    return standard


def moments(count: Tensor, total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation; 1 for what does not vary."""
    count = count.clamp(min=1)
    mean = total / count
    scale = (squares / count - mean**2).clamp(min=0).sqrt()
    return mean, torch.where(scale > 1e-8 * mean.abs().clamp(min=1), scale, 1.0)
