"""Tables of one's own: CSV and Parquet files with a header, one row an example.

A schema says what the columns are. It is found in the training clients' files, and every other
file is read by it: an error names the file, the column and the row, and never a value.

    number     nine of ten values that are not missing are numbers; then all others must be, too
    category   anything else, one-hot; a value that no training client has is all zeros, as is a
               missing one
    target     few different labels make a classification, numbers a regression
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedmaml.core.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["classification", "regression"]

MAX_CLASSES = 20
"""Whole numbers of at most this number of different values are labels, unless settings differ."""

MAX_CATEGORIES = 100
"""A column of text with more different values is a name or a note, and no category."""

_NUMBERS = 0.9  # of the values of a column of numbers
_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")
_SEPARATORS = ",;\t|"
_HEAD = 65536  # characters that show which separator a file has
_FIRST_ROW = 2  # of a file, below its header; as editors count lines


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


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of one client, all columns as text; equal to itself alone.

    Attributes:
        name: File, and the client's name in it if the file holds several.
        client: Short name of the client.
        rows: The columns by name, text; missing values are NaN. Its index holds the rows' numbers
            in the file.
    """

    name: str
    client: str
    rows: "pd.DataFrame"

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)


def load(pattern: str, client: str = "") -> tuple[Table, ...]:
    """Return the clients of all files that a pattern names, sorted by name.

    Args:
        pattern: Path, or paths with ``*``, ``?`` and ``**``.
        client: Column that names the client of each row; "": each file is one client.

    Raises:
        ConfigurationError: If no file has such a name, or a package that reads it is missing.
        DataError: If a file cannot be read as a table; names file, column and row.
    """
    names = [pattern] if os.path.isfile(pattern) else sorted(glob(pattern, recursive=True))
    files = [name for name in names if os.path.isfile(name)]
    if not files:
        raise ConfigurationError(
            f"no file {pattern!r}: give the path of a CSV or Parquet file, or a pattern in quotes, "
            "e.g. 'sites/*.csv'"
        )
    stamps = tuple((name, os.stat(name).st_mtime_ns, os.stat(name).st_size) for name in files)
    return _load(stamps, client)


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


def encode(table: Table, schema: Schema) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of a client.

    Returns:
        x: float64 ``(rows, schema.width)``; NaN where a number is missing.
        y: ``(rows,)``: class numbers, int64; 0 and 1 of two classes, float64; or float64 numbers.

    Raises:
        DataError: If a value does not fit; names file, column and row.
    """
    _check_columns(table, [column.name for column in schema.columns], schema.target)
    x = np.concatenate([_entries(table, column) for column in schema.columns], axis=1)
    return torch.from_numpy(x), _targets(table, schema)


# --- reading ----------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _load(stamps: tuple[tuple[str, int, int], ...], client: str) -> tuple[Table, ...]:
    tables: list[Table] = []
    for name, _, _ in stamps:
        rows = _read(Path(name))
        rows.index += _FIRST_ROW
        if not len(rows):
            raise DataError(f"{name} has a header and no row; remove it, or add its examples")
        if not client:
            tables.append(Table(name, Path(name).stem, rows))
            continue
        if client not in rows.columns:
            raise ConfigurationError(
                f"no column {client!r} in {name}; it has {', '.join(rows.columns)}"
            )
        if rows[client].isna().any():
            row = rows.index[rows[client].isna()][0]
            raise DataError(f"{name}: column {client!r}, row {row}: no client is named")
        tables += [
            Table(f"{name} ({client} {each})", str(each), part.drop(columns=client))
            for each, part in rows.groupby(client, sort=True)
        ]
    return tuple(sorted(tables, key=lambda table: table.name))


def _read(path: Path) -> "pd.DataFrame":
    """Return a file as text, missing values as NaN."""
    pandas = _pandas()
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            frame = pandas.read_parquet(path)
        except ImportError as error:
            raise ConfigurationError(
                f"reading {path} needs PyArrow: pip install 'fedmaml[tables]'"
            ) from error
        except Exception as error:  # PyArrow has many
            raise DataError(
                f"{path} cannot be read as Parquet ({type(error).__name__}); write it anew"
            ) from error
        _check_header(path, [str(name) for name in frame.columns])
        return frame.map(_text, na_action="ignore")
    text = _decoded(path)
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    _check_header(path, names)
    try:
        frame = pandas.read_csv(
            io.StringIO(text), sep=separator, header=0, names=names, index_col=False, dtype=str,
            keep_default_na=False, na_values=list(_MISSING), skipinitialspace=True,
            on_bad_lines="error", skip_blank_lines=True,
        )  # fmt: skip
    except pandas.errors.ParserError as error:
        where = str(error).rpartition("C error: ")[2].strip()
        raise DataError(
            f"{path} is no table: {where} ({len(names)} columns by its header); mend that line"
        ) from error
    return frame.apply(lambda column: column.str.strip())


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, row {row}: not UTF-8; save the file as UTF-8 (spreadsheets: 'CSV UTF-8')"
        ) from error
    if not text.strip():
        raise DataError(f"{path} is empty; remove it, or write a header and rows")
    return text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")


def _check_header(path: Path, names: Sequence[str]) -> None:
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"{path}: column {doubled[0]!r} stands twice in the header; rename or remove one"
        )
    if "" in names:
        raise DataError(f"{path}: column {list(names).index('') + 1} has no name in the header")


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ConfigurationError(
            "reading tables needs pandas: pip install 'fedmaml[tables]'"
        ) from error
    return pandas


# --- columns ----------------------------------------------------------------------------------


def _check_columns(table: Table, names: Sequence[str], target: str = "") -> None:
    """Refuse a table that lacks columns; without a target, one that has others, too."""
    own = list(table.rows.columns)
    wanted = [*names, target] if target else list(names)
    missing = [name for name in wanted if name not in own]
    others = [] if target else [name for name in own if name not in wanted]
    if missing or others:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing)
        parts += [f"has {', '.join(others)} beside them"] * bool(others)
        raise DataError(
            f"{table.name} has other columns than the files before it: it {' and '.join(parts)}"
        )


def _kind_of_target(
    tables: Sequence[Table], target: str, kind: str
) -> tuple[Kind, tuple[str, ...]]:
    for table in tables:
        _check_target(table, target)
    texts = sorted({text for table in tables for text in _labels(table.rows[target]).unique()})
    numbers = _as_numbers(texts)
    words = bool(np.isnan(numbers).any())
    few = len(texts) <= MAX_CLASSES and bool((numbers == np.round(numbers)).all())
    if kind == "regression" or (kind == "auto" and not words and not few):
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
    return "classification", tuple(texts if words else sorted(texts, key=float))


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
    categories = sorted({text for column in columns for text in column.unique()})
    if len(categories) > MAX_CATEGORIES:
        raise ConfigurationError(
            f"column {name!r} has text and {len(categories)} different values, too many for "
            f"categories (at most {MAX_CATEGORIES}): leave it out with "
            f'--set task.ignore=["{name}"]'
        )
    return Column(name, tuple(categories))


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
        text: _text(number) for text, number in zip(names, numbers, strict=True) if number == number
    }
    return values.map(names)


def _as_numbers(values: Any) -> np.ndarray:
    """Return texts as float64; NaN where one is no number."""
    pandas = _pandas()
    return np.asarray(pandas.to_numeric(pandas.Series(values), errors="coerce"), dtype=float)


def _targets(table: Table, schema: Schema) -> Tensor:
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
