"""Tables at real sites: a federation agrees on their columns, and each site reads its own alone.

    columns = ["age", "cholesterol", "sex=f|m"]   inputs: numbers, and categories with their values
    classes = ["no", "yes"]                       labels; () if the target is a number

Sites are clients by number: the first ones train, the last ones are held out.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, NoReturn, overload

from torch import Tensor

from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.simulations.datasets import tables
from fedmaml.simulations.datasets.given import table_of
from fedmaml.simulations.datasets.schema import Column, Schema, encode
from fedmaml.simulations.datasets.sites import FEWEST_ROWS, Sites
from fedmaml.simulations.datasets.tables import Table, pandas_package

Example = tuple[Tensor, Tensor]


def schema_from(columns: Sequence[str], target: str, classes: Sequence[str]) -> Schema:
    """Return the schema on which a federation agreed.

    Args:
        columns: Inputs: "name" of numbers, "name=value|value" of categories.
        target: Column to predict.
        classes: Its labels; () for numbers.

    Raises:
        ConfigurationError: If a column stands there twice, is the target, or has one category.
    """
    found = tuple(_column(text) for text in columns)
    names = [column.name for column in found]
    for name in names:
        if names.count(name) > 1 or name == target:
            what = "the target" if name == target else "there twice"
            raise ConfigurationError(f"task.columns: column {name!r} is {what}; leave it out")
    if len(classes) == 1 or len(set(classes)) < len(classes):
        raise ConfigurationError(
            f"task.classes = {list(classes)}: name two labels or more, each once; none for a "
            "target of numbers"
        )
    return Schema(target, "classification" if classes else "regression", tuple(classes), found)


def arranged(
    schema: Schema, sites: int, fractions: tuple[float, float], own: Callable[[], Example]
) -> Sites:
    """Return the sites, of which this process can read one or none.

    Args:
        schema: That they agreed on.
        sites: How many.
        fractions: Of the sites that validate, and that test.
        own: Reads the examples of this site.

    Raises:
        ConfigurationError: If too few are left to train.
    """
    validation, test = round(fractions[0] * sites), max(1, round(fractions[1] * sites))
    train = sites - validation - test
    if train < 2:
        raise ConfigurationError(
            f"task.sites = {sites}, and {max(train, 0)} of them are left to train: at least 2 must "
            "be; lower task.validation and task.test, or find further sites"
        )
    names = tuple(f"site {number}" for number in range(sites))
    return Sites(names, names, OwnRows(own, sites), (train, validation, test), schema)


class OwnRows(Sequence[Example]):
    """The examples of all sites, of which this process can read its own.

    Args:
        own: Reads them.
        sites: How many sites there are.
    """

    def __init__(self, own: Callable[[], Example], sites: int) -> None:
        self._own, self._sites = own, sites

    def __len__(self) -> int:
        """Return the number of sites."""
        return self._sites

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> NoReturn: ...
    def __getitem__(self, number: int | slice) -> Example:
        """Return the examples of this site, whose number is the only one that it is asked for."""
        if isinstance(number, slice):
            raise TypeError("a site has its own examples only")
        return self._own()


def own_examples(schema: Schema, table: str, column: str, module: str, shots: int) -> Example:
    """Return the examples of this site, as its own file names them.

    Args:
        schema: That the federation agreed on.
        table: CSV or Parquet file; "": none.
        column: The site's name of the target's column; "": that of the schema.
        module: "package.module:function" that returns inputs and targets, or a frame; "": none.
        shots: Rows on which a site adapts that does not train; 0: half of them.

    Raises:
        ConfigurationError: If neither is named, or cannot be found.
        DataError: If they do not fit the schema; names file, column and row, and never a value.
    """
    if table:
        (found,) = tables.load(table)
    elif module:
        found = _returned(schema, module, column or schema.target)
    else:
        raise ConfigurationError(
            "the scenario reads a table of the site, and the site's own file names none: write "
            "table and target, or module, below [data]"
        )
    least = max(FEWEST_ROWS, shots + 2)
    if len(found) < least:
        raise DataError(
            f"{found.name} has {len(found)} rows; a site needs {least}, some to adapt on and two "
            "to be evaluated on"
        )
    x, y = _encoded(found, schema, column)
    if schema.classes and bool((y == y[0]).all()):
        raise DataError(f"{found.name} has rows of one class alone; a site needs two classes")
    return x, y


@lru_cache(maxsize=4)
def _encoded(found: Table, schema: Schema, column: str) -> Example:
    if column and column != schema.target and column in found.rows.columns:
        renamed = found.rows.rename(columns={column: schema.target})
        found = Table(found.name, found.client, renamed)
    return encode(found, schema)


@lru_cache(maxsize=4)
def _returned(schema: Schema, place: str, target: str) -> Table:
    """Call the site's function; return what it returns as a table."""
    module, _, name = place.partition(":")
    try:
        function: Callable[[], Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"data.module = {place!r} of the site's file cannot be imported "
            f"({type(error).__name__}: {error}): install the package that has it"
        ) from error
    given = function()
    if hasattr(given, "columns"):
        return table_of(place, given)
    try:
        x, y = given
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{place} must return inputs and targets, or a frame with the column {target!r}"
        ) from error
    if not hasattr(x, "columns"):
        names = [column.name for column in schema.columns]
        if len(getattr(x, "shape", ())) != 2 or x.shape[1] != len(names):
            raise DataError(
                f"{place} returned inputs of shape {tuple(getattr(x, 'shape', ()))}; the "
                f"federation agreed on (rows, {len(names)}): {', '.join(names)}"
            )
        x = pandas_package().DataFrame(x, columns=names)
    return table_of(place, x, y, target)


def _column(text: str) -> Column:
    name, equals, values = text.partition("=")
    categories = tuple(sorted(values.split("|"))) if equals else ()
    if not name or (equals and (len(categories) < 2 or len(set(categories)) < len(categories))):
        raise ConfigurationError(
            f"task.columns: {text!r}: write name, or name=value|value with two values or more"
        )
    return Column(name, categories)
