"""Whether a site's data can be used: read as its own file says, counted, and never shown."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from fedmaml.core.errors import FedmamlError
from fedmaml.provisioning.findings import Finding, bad, good, unknown
from fedmaml.sites.site_file import Data

DATA, LABELS = "data", "labels"


def look_at_data(data: Data) -> list[Finding]:
    """Return a finding about the data and one about the labels, with counts and no value."""
    if data.table is not None:
        return _table(data.table, data.target)
    if data.folder is not None:
        return _folder(data.folder)
    if data.module:
        return _module(data.module, data.target)
    return [
        good(DATA, "site.toml names none: the scenario makes its own"),
        unknown(LABELS, "there are no data of the site"),
    ]


def _table(path: Path, target: str) -> list[Finding]:
    from fedmaml.simulations.datasets.schema import schema_of
    from fedmaml.simulations.datasets.tables import load

    if not path.is_file():
        return _broken(f"{path} is missing", "correct data.table in site.toml, or put it there")
    if not os.access(path, os.R_OK):
        return _broken(f"{path} cannot be read by this user", f"let it: chmod u+r {path}")
    try:
        tables = load(str(path))
    except FedmamlError as error:
        return _broken(str(error), "mend the file as this line says")
    names = list(tables[0].rows.columns)
    if target not in names:
        return _broken(
            f"{path.name} has no column {target!r} among its {len(names)}",
            "correct data.target in site.toml, or the header of the file",
        )
    rows = sum(map(len, tables))
    missing = sum(int(table.rows.drop(columns=target).isna().sum().sum()) for table in tables)
    counted = good(DATA, f"{rows} rows, {len(names) - 1} inputs, {missing} cells missing")
    try:
        schema = schema_of(tables, target, "auto")
    except FedmamlError as error:
        if repr(target) in str(error):
            return [counted, bad(LABELS, str(error), "mend the column that data.target names")]
        return _broken(str(error), "mend the file as this line says")
    what = f"{len(schema.classes)} classes" if schema.classes else "numbers"
    return [counted, good(LABELS, f"{what} in column {target!r}, none missing")]


def _folder(path: Path) -> list[Finding]:
    if not path.is_dir():
        return _broken(f"{path} is no folder", "correct data.folder in site.toml, or make it")
    if not os.access(path, os.R_OK | os.X_OK):
        return _broken(f"{path} cannot be read by this user", f"let it: chmod u+rx {path}")
    inside = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    if not inside:
        return _broken(
            f"{path} holds no folder of a data set", "put one there, named after the data set"
        )
    unreadable = [
        file for name in inside for file in (path / name).rglob("*") if not os.access(file, os.R_OK)
    ]
    if unreadable:
        return _broken(
            f"{unreadable[0]} cannot be read by this user", f"let it: chmod u+r {unreadable[0]}"
        )
    return [
        good(DATA, f"{len(inside)} data sets in {path}"),
        unknown(LABELS, "the scenario knows them, and checks them when it reads"),
    ]


def _module(name: str, target: str) -> list[Finding]:
    module, _, function = name.partition(":")
    try:
        found: Callable[[], Any] = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        return _broken(
            f"{name} cannot be imported ({error})",
            "install the package that has it in this environment, or correct data.module",
        )
    try:
        given = found()
        x, y = (given.drop(columns=target), given[target]) if target else given
        labels, rows = np.asarray(y), len(x)
    except Exception as error:  # whatever somebody's own function raises; its text may quote data
        return _broken(
            f"{name} failed ({type(error).__name__})",
            "call it in Python at this site; it returns inputs and targets",
        )
    if rows != len(labels) or not rows:
        return _broken(
            f"{name} returned {rows} inputs and {len(labels)} targets", "return as many of both"
        )
    counted = good(DATA, f"{rows} examples")
    if len(np.unique(labels)) < 2:
        return [counted, bad(LABELS, "all targets are the same", "there is nothing to learn")]
    return [counted, good(LABELS, f"{len(np.unique(labels))} different targets")]


def _broken(what: str, fix: str) -> list[Finding]:
    return [bad(DATA, what, fix), unknown(LABELS, "the data come first")]
