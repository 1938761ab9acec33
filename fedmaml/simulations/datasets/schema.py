"""What the columns of tables are, and their rows as numbers.

A schema is found in the training clients' tables, and every other table is read by it. An error
names the file, the column and the row, and never a value.

    number     nine of ten values that are not missing are numbers; then all others must be, too
    category   anything else, one-hot; a value that no training client has is all zeros, as is a
               missing one
    target     few different labels make a classification, numbers a regression
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.simulations.datasets.tables import Table, pandas_package, plain

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["classification", "regression"]

MAX_CLASSES = 20
"""Whole numbers of at most this number of different values are labels, unless settings differ."""

MAX_CATEGORIES = 100
"""A column of text with more different values is a name or a note, and no category."""

_NUMBERS = 0.9  # of the values of a column of numbers


@dataclass(frozen=True)
class Column:
    """An input column.

    Attributes:
        name: As in the header.
        categories: The values that training clients have, sorted; empty for a column of numbers.
    """

    name: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """The columns of all files.

    Attributes:
        target: Name of the target's column.
        kind: Of the problem.
        classes: The labels, sorted; empty for a regression.
        columns: Inputs.
    """

    target: str
    kind: Kind
    classes: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def width(self) -> int:
        """Entries of an example: one for a number, one for each category."""
        return sum(max(1, len(column.categories)) for column in self.columns)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Positions of numbers among the entries of an example."""
        positions, position = [], 0
        for column in self.columns:
            if not column.categories:
                positions.append(position)
            position += max(1, len(column.categories))
        return tuple(positions)


def schema_of(
    tables: Sequence[Table], target: str, kind: Literal["auto", "classification", "regression"],
    ignored: Sequence[str] = (), client: str = "",
) -> Schema:  # fmt: skip
    """Find what the columns of the training clients' tables are.

    Args:
        tables: The training clients'.
        target: Name of the target's column.
        kind: "auto": classification if the target has text, or at most `MAX_CLASSES` different
            whole numbers.
        ignored: Columns that are no inputs.
        client: Column that names clients; no input either.

    Raises:
        ConfigurationError: If a column is missing, or nothing is left to learn from.
        DataError: If the files do not go together.
    """
    names = list(tables[0].rows.columns)
    for name in (target, *ignored):
        if name not in names:
            raise ConfigurationError(
                f"no column {name!r} in {tables[0].name}; it has {', '.join(names)}"
            )
    for table in tables[1:]:
        _check_columns(table, names)
    inputs = [name for name in names if name not in (target, client, *ignored)]
    if not inputs:
        raise ConfigurationError(
            f"{tables[0].name} has no column but the target {target!r}: there is nothing to "
            "predict it from"
        )
    found, labels = _kind_of_target(tables, target, kind)
    return Schema(target, found, labels, tuple(_column(tables, name) for name in inputs))


def of_one_class(
    tables: Sequence[Table], target: str, kind: Literal["auto", "classification", "regression"]
) -> tuple[Table, ...]:
    """Return the tables with one class alone, among tables that together make a classification.

    () if all have the same class. Tables without a target, or without some targets, are passed
    over: `schema_of` names what is wrong with them.
    """
    labels = {
        table: set(_labels(table.rows[target]))
        for table in tables
        if target in table.rows.columns and not table.rows[target].isna().any()
    }
    texts = sorted(set().union(*labels.values()))
    if len(texts) < 2 or not _makes_classes(texts, kind):
        return ()
    return tuple(table for table, own in labels.items() if len(own) == 1)


def encode(table: Table, schema: Schema) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of a client.

    Returns:
        x: float64 ``(rows, schema.width)``; NaN where a number is missing.
        y: ``(rows,)``: class numbers, int64; 0 and 1 of two classes, float64; or float64 numbers.

    Raises:
        DataError: If a value does not fit; names file, column and row.
    """
    names = [column.name for column in schema.columns]
    _check_columns(table, [*names, schema.target], others=True)
    return encode_inputs(table, schema), encode_targets(table, schema)


def encode_inputs(table: Table, schema: Schema) -> Tensor:
    """Return the inputs alone, of a table that may lack the target; as `encode`."""
    _check_columns(table, [column.name for column in schema.columns], others=True)
    x = np.concatenate([_entries(table, column) for column in schema.columns], axis=1)
    return torch.from_numpy(x)


def _check_columns(table: Table, names: Sequence[str], *, others: bool = False) -> None:
    """Refuse a table that lacks columns, or that has others, unless those are allowed."""
    own = list(table.rows.columns)
    missing = [name for name in names if name not in own]
    further = [] if others else [name for name in own if name not in names]
    if missing or further:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing)
        parts += [f"has {', '.join(further)} beside them"] * bool(further)
        raise DataError(
            f"{table.name} has not the columns of the other clients: it {' and '.join(parts)}"
        )


def _kind_of_target(
    tables: Sequence[Table], target: str, kind: str
) -> tuple[Kind, tuple[str, ...]]:
    for table in tables:
        _check_target(table, target)
    texts = sorted({text for table in tables for text in _labels(table.rows[target]).unique()})
    if np.isnan(_as_numbers(texts)).any():
        _refuse_decimal_commas(tables, target, sum(map(len, tables)))
    if not _makes_classes(texts, kind):
        return "regression", ()
    if len(texts) < 2:
        raise DataError(
            f"column {target!r} has one value in all files of training clients: there is nothing "
            "to predict"
        )
    if kind == "auto" and len(texts) > MAX_CLASSES:
        raise ConfigurationError(
            f"column {target!r} has text and {len(texts)} different values, too many for classes; "
            "if they are classes, set task.kind=classification; if they are numbers, mend "
            + _first_text(tables, target)
        )
    words = bool(np.isnan(_as_numbers(texts)).any())
    return "classification", tuple(texts if words else sorted(texts, key=float))


def _makes_classes(texts: Sequence[str], kind: str) -> bool:
    """Return whether a target with these values makes a classification."""
    numbers = _as_numbers(texts)
    if kind != "auto" or np.isnan(numbers).any():
        return kind != "regression"
    return len(texts) <= MAX_CLASSES and bool((numbers == np.round(numbers)).all())


def _first_text(tables: Sequence[Table], name: str) -> str:
    for table in tables:
        values = table.rows[name]
        wrong = np.isnan(_as_numbers(values)) & ~values.isna().to_numpy()
        if wrong.any():
            return f"{table.name}, row {values.index[wrong][0]}"
    raise AssertionError("a column of text has text")


def _check_target(table: Table, target: str) -> None:
    missing = table.rows[target].isna()
    if missing.any():
        raise DataError(
            f"{table.name}: column {target!r}, row {table.rows.index[missing][0]}: the target is "
            f"missing ({int(missing.sum())} of {len(table)} rows); remove these rows"
        )


def _column(tables: Sequence[Table], name: str) -> Column:
    columns = [table.rows[name].dropna() for table in tables]
    known = sum(map(len, columns))
    numbers = sum(int((~np.isnan(_as_numbers(column))).sum()) for column in columns)
    if numbers >= _NUMBERS * known:
        return Column(name)
    _refuse_decimal_commas(tables, name, known)
    categories = sorted({text for column in columns for text in column.unique()})
    if len(categories) > MAX_CATEGORIES:
        raise ConfigurationError(
            f"column {name!r} has text and {len(categories)} different values, too many for "
            f"categories (at most {MAX_CATEGORIES}): leave it out with "
            f'--set task.ignore=["{name}"]'
        )
    return Column(name, tuple(categories))


def _refuse_decimal_commas(tables: Sequence[Table], name: str, known: int) -> None:
    """Refuse a column of numbers such as 51,3: as categories they would say nothing."""
    where, numbers = "", 0
    for table in tables:
        column = table.rows[name].dropna()
        pointed = ~np.isnan(_as_numbers(column.str.replace(",", ".", n=1)))
        commas = pointed & np.isnan(_as_numbers(column))
        if commas.any() and not where:
            where = f"{table.name}: column {name!r}, row {column.index[commas][0]}"
        numbers += int(pointed.sum())
    if where and numbers >= _NUMBERS * known:
        raise DataError(f"{where}: a decimal comma; save the files with decimal points")


def _entries(table: Table, column: Column) -> np.ndarray:
    """Return a column as ``(rows, entries)``."""
    values = table.rows[column.name]
    if column.categories:
        return (values.to_numpy()[:, None] == np.array(column.categories, object)).astype(float)
    return _numbers(table, column.name)[:, None]


def _numbers(table: Table, name: str) -> np.ndarray:
    values = table.rows[name]
    numbers = _as_numbers(values)
    wrong = np.isnan(numbers) & ~values.isna().to_numpy() | np.isinf(numbers)
    if wrong.any():
        raise DataError(
            f"{table.name}: column {name!r}, row {values.index[wrong][0]}: no number, and the "
            f"column holds numbers ({int(wrong.sum())} of {len(table)} rows); mend or empty them"
        )
    return numbers


def _labels(values: "pd.Series") -> "pd.Series":
    """Return labels as text; 1, 1.0 and 01 are the same."""
    names = {text: text for text in values.unique()}
    numbers = _as_numbers(list(names))
    names |= {
        text: plain(number) for text, number in zip(names, numbers, strict=True) if number == number
    }
    return values.map(names)


def _as_numbers(values: Any) -> np.ndarray:
    """Return texts as float64; NaN where one is no number."""
    pandas = pandas_package()
    return np.asarray(pandas.to_numeric(pandas.Series(values), errors="coerce"), dtype=float)


def encode_targets(table: Table, schema: Schema) -> Tensor:
    """Return the targets alone; as `encode`."""
    _check_columns(table, [schema.target], others=True)
    _check_target(table, schema.target)
    if schema.kind == "regression":
        return torch.from_numpy(_numbers(table, schema.target).copy())
    numbers: Mapping[str, int] = {label: number for number, label in enumerate(schema.classes)}
    values = _labels(table.rows[schema.target])
    unknown = ~values.isin(schema.classes).to_numpy()
    if unknown.any():
        raise DataError(
            f"{table.name}: column {schema.target!r}, row {values.index[unknown][0]}: a class that "
            f"no training client has ({int(unknown.sum())} of {len(table)} rows); the classes are "
            "those of the training clients"
        )
    y = torch.tensor([numbers[label] for label in values])
    return y.double() if len(schema.classes) == 2 else y
