"""Clients with tables: which of them train, validate and test."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol, TypeVar

from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.simulations.datasets.schema import Schema, encode, of_one_class, schema_of
from fedmaml.simulations.datasets.suited import suited
from fedmaml.simulations.datasets.tables import Table

C = TypeVar("C", bound="Client")

_NAMED = 5  # of those that are left out, in an error
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
        left_out: Further clients that cannot take part, by name, and why.
    """

    clients: tuple[str, ...]
    names: tuple[str, ...]
    rows: Sequence[tuple[Tensor, Tensor]]
    counts: tuple[int, int, int]
    schema: Schema
    left_out: Mapping[str, str] = field(default_factory=dict)


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
    *,
    leaving_out: bool = False,
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
        leaving_out: Whether tables that are no clients, with too few rows or one class alone, are
            left out before the draw, and not refused.

    Raises:
        ConfigurationError: If too few are left to train, or none to test.
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
    left_out: dict[str, str] = {}
    if leaving_out:
        fit, left_out = _suited((*known, *unseen), target, kind)
        known, tests = (tuple(each for each in part if each in fit) for part in (known, unseen))
        reasons = ", ".join(f"{name!r}: {why}" for name, why in list(left_out.items())[:_NAMED])
        if unseen and not tests:
            raise ConfigurationError(f"no client of task.unseen can test ({reasons}): add rows")
        unseen = tests
        if left_out:
            more = ", ..." if len(left_out) > _NAMED else ""
            cure = f"left out {len(left_out)} ({reasons}{more}): mend these, or {cure}"
    tables, counts = drawn(known, unseen, fractions, seed, cure)
    schema = schema_of(tables[: counts[0]], target, kind, ignored, client)
    rows = tuple(encode(table, schema) for table in tables)
    short, names = zip(*((table.client, table.name) for table in tables), strict=True)
    return Sites(short, names, rows, counts, schema, left_out)


def _suited(
    tables: tuple[Table, ...],
    target: str,
    kind: Literal["auto", "classification", "regression"],
) -> tuple[frozenset[Table], dict[str, str]]:
    """Return the tables that can be clients, and why each of the others cannot, by short name."""
    alone = of_one_class([table for table in tables if len(table) >= FEWEST_ROWS], target, kind)

    def lacking(table: Table) -> str:
        if len(table) < FEWEST_ROWS:
            return f"fewer than {FEWEST_ROWS} rows" if len(table) else "no rows"
        return "one class alone" if table in alone else ""

    fit, others = suited({table: table for table in tables}, lacking)
    times = Counter(table.client for table in others)
    return frozenset(fit), {
        table.client if times[table.client] == 1 else table.name: why
        for table, why in others.items()
    }


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
            f"task.data has {len(known)} {'client' if len(known) == 1 else 'clients'}, and "
            f"{max(0, train)} of them are left to train: at least 2 must be; {cure}"
        )
    order = seeding.permutation(seeding.key(seed, "csv", "clients"), [0], len(known))[0]
    clients = tuple(known[int(i)] for i in order) + unseen
    return clients, (train, validation, test or len(unseen))
