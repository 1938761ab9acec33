"""How rows of tables become what a network takes: what a run keeps of it, so that it can be used.

Data are not in it: names of columns, categories and classes, on which a federation agrees.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from fedmaml.core.errors import DataError
from fedmaml.simulations.datasets.schema import Schema


@dataclass(frozen=True)
class Rows:
    """How rows become inputs, and which network takes them.

    Attributes:
        schema: The columns.
        network: Its name in `simulations.tabular`; "own": somebody's, which takes inputs in their
            shape.
        shape: Of one example, where examples are arrays; (): they have columns with names.
        own: Whether network, loss or metrics are somebody's code, which only the process knows that
            was handed it.
    """

    schema: Schema
    network: Literal["mlp", "linear", "own"] = "mlp"
    shape: tuple[int, ...] = ()
    own: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the entries of an example, e.g. "age", "sex=f", "sex=m"."""
        return tuple(
            f"{column.name}={category}" if category else column.name
            for column in self.schema.columns
            for category in column.categories or ("",)
        )

    def to_json(self) -> Any:
        """Return plain values."""
        return _ROWS.dump_python(self, mode="json")


_ROWS = TypeAdapter(Rows)


def rows_from_json(value: Any) -> Rows:
    """Undo `Rows.to_json`.

    Raises:
        DataError: If a value is missing or wrong; names it.
    """
    try:
        return _ROWS.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"not a schema of rows ({where}: {first['msg']})") from error
