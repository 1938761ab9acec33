"""Measured numbers as data: tables with typed values, their Markdown, and the files of docs/data.

A benchmark makes a `Table`, prints its Markdown, and writes it with `--json FILE`. The files of
docs/data hold these tables; `python -m benchmarks.write_docs` puts them into the pages. Nothing
here imports PyTorch.
"""

import argparse
import json
import os
import platform
import re
import string
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("flwr", "numpy", "torch")
CODE = ("benchmarks", "experiments", "fedmaml")
PLACES = ("--json", "--data-dir", "--runs", "--picture")
"""Options that say where files lie, and change no figure."""
_DEPTH_OF_ROWS = 4  # tables, name, rows, name of the row


class Number(float):
    """A float with one more format: ``~N`` is N significant digits, never an exponent.

    Digits before the point are always shown. Without a format a whole number has no decimals, but
    commas between thousands.
    """

    def __format__(self, spec: str) -> str:
        if spec in ("", ",") and self.is_integer():
            return format(int(self), ",")
        if not spec.startswith("~"):
            return super().__format__(spec)
        digits = int(spec[1:])
        if abs(self) >= 10 ** (digits - 1):
            return super().__format__(",.0f")
        return format(Decimal(super().__format__(f".{digits}g")), "f")


class Numbers(tuple[Number, ...]):
    """Numbers that are formatted one by one, without the zero before the point."""

    def __format__(self, spec: str) -> str:
        return " ".join(re.sub(r"^(-?)0\.", r"\1.", format(number, spec)) for number in self)


@dataclass(frozen=True)
class Table:
    """A table of measured values.

    Attributes:
        columns: Heading -> templates (`str.format`) over a row's values. A cell is the first
            template whose values are all there; without one it is empty.
        rows: Name of a row -> its values: numbers, text, lists of numbers, or mappings of these.
            A template has the row's name as ``{name}``.
    """

    columns: Mapping[str, Sequence[str]]
    rows: Mapping[str, Mapping[str, Any]]

    def markdown(self) -> str:
        """Return the table as Markdown, without a newline at its end."""
        lines = [list(self.columns), ["---"] * len(self.columns)]
        lines += [self._cells(name, values) for name, values in self.rows.items()]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

    def _cells(self, name: str, values: Mapping[str, Any]) -> list[str]:
        named = {"name": name, **typed(values)}
        return [_cell(templates, named) for templates in self.columns.values()]


def typed(value: Any) -> Any:
    """Return a JSON value with `Number` and `Numbers` in place of numbers; null is left out."""
    if isinstance(value, Mapping):
        return {key: typed(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return Numbers(typed(each) for each in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Number(value)
    return value


def _cell(templates: Sequence[str], values: Mapping[str, Any]) -> str:
    for template in templates:
        try:
            return string.Formatter().vformat(template, (), values)
        except KeyError:
            continue
    return ""


def estimate(field: str, spec: str = ".3f") -> list[str]:
    """Return the templates of a mean with its interval, given as mean, low and high."""
    mean, low, high = (f"{{{field}[{part}]:{spec}}}" for part in ("mean", "low", "high"))
    return [f"{mean} ({low} .. {high})", mean]


def tables_in(file: Path | None) -> dict[str, Table]:
    """Return the tables of a file that was written before; none if there is no file."""
    if file is None or not file.exists():
        return {}
    tables: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["tables"]
    return {name: Table(table["columns"], table["rows"]) for name, table in tables.items()}


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark's command take ``--json FILE``."""
    parser.add_argument(
        "--json", type=Path, help="file for the tables, such as docs/data/NAME.json"
    )


def print_tables(tables: Mapping[str, Table]) -> None:
    """Print tables as Markdown, each below its name."""
    for name, table in tables.items():
        print(f"\n### {name}\n\n{table.markdown()}", flush=True)


def write(
    file: Path,
    tables: Mapping[str, Table],
    packages: Iterable[str] = PACKAGES,
    command: str | None = None,
) -> None:
    """Write tables with a command (None: of this process), date, commit, machine and versions."""
    content = {
        "command": command or command_line(),
        "measured": {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": _commit(),
            "machine": machine(),
            "versions": {"python": platform.python_version()} | _versions(packages),
        },
        "transcribed": False,
        "tables": {
            name: {"columns": dict(table.columns), "rows": _rounded(table.rows)}
            for name, table in tables.items()
        },
    }
    file.write_text(as_json(content))


def as_json(content: Mapping[str, Any]) -> str:
    """Return a data file's text: a line for each row of a table, so that changes can be read."""
    rows: dict[str, str] = {}

    def marked(value: Any, depth: int) -> Any:
        if not isinstance(value, Mapping):
            return value
        if depth == _DEPTH_OF_ROWS:
            mark = f"row {len(rows)}"
            rows[f'"{mark}"'] = json.dumps(value, ensure_ascii=False)
            return mark
        return {key: marked(each, depth + 1) for key, each in value.items()}

    text = json.dumps(marked(content, 0), indent=1, ensure_ascii=False) + "\n"
    return re.sub(r'"row \d+"', lambda mark: rows[mark.group()], text)


def command_line() -> str:
    """Return the command of this process as one types it, without `PLACES`."""
    main = sys.modules["__main__"].__spec__
    module = main.name.removesuffix(".__main__") if main else Path(sys.argv[0]).name
    words, skip = [], False
    for word in sys.argv[1:]:
        skipped, skip = skip, word in PLACES
        if not skip and not skipped:
            words.append(word)
    return " ".join(["python -m", module, *words])


def machine() -> str:
    """Return processor, number of cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {_processor()}, {memory:.0f} GiB"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Return the commit of this checkout; with a plus sign if its code was changed since."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        commit, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout
            for words in (
                ["rev-parse", "--short", "HEAD"],
                ["status", "--porcelain", *CODE],
            )
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
    return commit.strip() + ("+" if changed.strip() else "")


def _versions(packages: Iterable[str]) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _rounded(value: Any) -> Any:
    """Return values as JSON takes them, with six significant digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
