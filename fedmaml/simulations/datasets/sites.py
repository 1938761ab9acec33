"""Clients with tables: which of them train, validate and test."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, TypeVar

from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.simulations.datasets.schema import Schema, encode, schema_of
from fedmaml.simulations.datasets.tables import Table

C = TypeVar("C", bound="Client")

FEWEST_ROWS = 4
"""Of a client: two to adapt on, two to be evaluated on."""


class Client(Protocol):
    """Examples of one client, in whatever form."""

    @property
    def name(self) -> str:
        """Name in errors."""

    def __len__(self) -> int:
        """Return the number of rows."""


@dataclass(frozen=True)
class Sites:
    """The clients' tables.

    Attributes:
        clients: Short names by number: first those that train, then those that validate, then test.
        names: As errors name them, e.g. with their file.
        rows: Their inputs, ``(rows, schema.width)``, and targets, ``(rows,)``.
        counts: Number of clients that train, validate and test.
        schema: Found in those that train.
    """

    clients: tuple[str, ...]
    names: tuple[str, ...]
    rows: Sequence[tuple[Tensor, Tensor]]
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
    cure = (
        "add files, lower task.validation and task.test, or, if one file holds several clients, "
        "name the column that tells them apart (--client)"
    )
    tables, counts = drawn(known, unseen, fractions, seed, cure)
    schema = schema_of(tables[: counts[0]], target, kind, ignored, client)
    rows = tuple(encode(table, schema) for table in tables)
    short, names = zip(*((table.client, table.name) for table in tables), strict=True)
    return Sites(short, names, rows, counts, schema)


def drawn(
    known: tuple[C, ...], unseen: tuple[C, ...], fractions: tuple[float, float], seed: int,
    cure: str,
) -> tuple[tuple[C, ...], tuple[int, int, int]]:  # fmt: skip
    """Draw which clients train, validate and test; as `arranged`.

    Args:
        known: Clients of which some train.
        unseen: Those that test; () draws them, too.
        fractions: Of the known clients that validate, and that test.
        seed: Of the draw.
        cure: What to do if too few are left to train.

    Returns:
        The clients in the order of `Sites`, and its counts.
    """
    for one in (*known, *unseen):
        if len(one) < FEWEST_ROWS:
            raise DataError(
                f"{one.name} has {len(one)} {'row' if len(one) == 1 else 'rows'}; a client "
                f"needs {FEWEST_ROWS}, two to adapt on and two to be evaluated on: remove it, or "
                "add rows"
            )
    validation, test = (round(fraction * len(known)) for fraction in fractions)
    test = 0 if unseen else max(1, test)
    train = len(known) - validation - test
    if train < 2:
        raise ConfigurationError(
            f"task.data has {len(known)} clients, and {train} of them are left to train: at least "
            f"2 must be; {cure}"
        )
    order = seeding.permutation(seeding.key(seed, "csv", "clients"), [0], len(known))[0]
    clients = tuple(known[int(i)] for i in order) + unseen
    return clients, (train, validation, test or len(unseen))
