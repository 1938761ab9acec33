"""Tables of one's own: CSV and Parquet files with a header, one row an example, read as text.

`datasets.schema` says what the columns are. An error names the file, the column and the row, and
never a value.
"""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.extras import imported

if TYPE_CHECKING:
    import pandas as pd

_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")
_SEPARATORS = ",;\t|"
_HEAD = 65536  # characters that show which separator a file has
_FIRST_ROW = 2  # of a file, below its header; as editors count lines


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
        DataError: If a file is empty or cannot be read as a table; names file, column and row.
    """
    found = load_with_empty(pattern, client)
    for table in found:
        if not len(table.rows.columns):
            raise DataError(f"{table.name} is empty; remove it, or write a header and rows")
        if not len(table):
            raise DataError(f"{table.name} has a header and no row; remove it, or add its examples")
    return found


def load_with_empty(pattern: str, client: str = "") -> tuple[Table, ...]:
    """Return the same; an empty file is a client without rows, and without columns if it has none.

    Raises:
        ConfigurationError: If no file has such a name, or a package that reads it is missing.
        DataError: If a file cannot be read as a table; names file, column and row.
    """
    names = [pattern] if os.path.isfile(pattern) else sorted(glob(pattern, recursive=True))
    files = [name for name in names if os.path.isfile(name)]
    if gone := [name for name in names if os.path.islink(name) and not os.path.exists(name)]:
        raise DataError(f"{gone[0]} is a link to a file that is not there: mend or remove it")
    if os.path.isdir(pattern):
        raise ConfigurationError(f"{pattern!r} is a folder: write '{pattern}/*.csv'")
    if not files:
        raise ConfigurationError(
            f"no file {pattern!r}: give the path of a CSV or Parquet file, or a pattern in quotes, "
            "e.g. 'sites/*.csv'"
        )
    stamps = tuple((name, os.stat(name).st_mtime_ns, os.stat(name).st_size) for name in files)
    return _load(stamps, client)


@lru_cache(maxsize=8)
def _load(stamps: tuple[tuple[str, int, int], ...], client: str) -> tuple[Table, ...]:
    tables: list[Table] = []
    for name, _, _ in stamps:
        rows = _read(Path(name))
        rows.index += _FIRST_ROW
        if not client or not len(rows):
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
    pandas = pandas_package()
    if not path.stat().st_size:
        return pandas.DataFrame()
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
        return frame.map(plain, na_action="ignore")
    text = _decoded(path)
    if not text:
        return pandas.DataFrame()
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
    return text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n") if text.strip() else ""


def _check_header(path: Path, names: Sequence[str]) -> None:
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"{path}: column {doubled[0]!r} stands twice in the header; rename or remove one"
        )
    if "" in names:
        raise DataError(f"{path}: column {list(names).index('') + 1} has no name in the header")


def plain(value: Any) -> str:
    """Return a value as text; whole numbers have no point."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def pandas_package() -> Any:
    """Return pandas.

    Raises:
        ConfigurationError: If it is not installed.
    """
    return imported("pandas", "tables", "reading tables")
