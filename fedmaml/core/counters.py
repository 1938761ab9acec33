"""What examples cost beyond bytes and operations: environment steps, oracle calls, measurements.

    Counter(name, about, function)    declared by a scenario, in `Problem.counters`
    count_units(counters, task)       name -> units that one client's task costs

docs/costs.md says what is counted in training and in evaluation.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fedmaml.core.errors import ConfigurationError, UnsupportedProblemError
from fedmaml.core.failures import contained

if TYPE_CHECKING:
    from torch import Tensor

    from fedmaml.core.tasks import Batch, Task
    from fedmaml.core.trees import Tree

MAX_UNITS = 2**62
"""Most units that the examples of one client may cost."""

RESERVED = ("recipes", "rounds", "bytes", "flops")
"""Names that no counter may have: `fedmaml compare --equal` uses these words already."""


@dataclass(frozen=True)
class Counter:
    """A unit that examples cost, and how a client counts it.

    Attributes:
        name: As it appears in files and tables, and as ``--equal`` takes it: lower-case letters,
            digits and underscores.
        about: What one unit is.
        function: (x, y) of one client's `Batch` -> units that these examples cost, an int or a
            tensor of one entry; a whole number from 0 to `MAX_UNITS`.
    """

    name: str
    about: str
    function: "Callable[[Tree, Tree], Tensor | int]"

    def __post_init__(self) -> None:
        """Refuse a name that the command line could not use."""
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name) or self.name in RESERVED:
            raise ConfigurationError(
                f"counter name {self.name!r}: allowed are lower-case letters, digits and "
                f"underscores, a letter first, and none of {', '.join(RESERVED)}"
            )


@dataclass(frozen=True)
class Units:
    """Units of one counter: whole numbers, or their mean.

    Attributes:
        support: Of support examples.
        query: Of query examples.
    """

    support: float = 0
    query: float = 0

    @property
    def total(self) -> float:
        """Support plus query."""
        return self.support + self.query

    def __add__(self, other: "Units") -> "Units":
        """Add both parts."""
        return Units(self.support + other.support, self.query + other.query)

    def __truediv__(self, count: float) -> "Units":
        """Divide both parts."""
        return Units(self.support / count, self.query / count)


Counted = Mapping[str, Units]
"""Name of a counter -> units."""


def count_units(counters: Sequence[Counter], task: "Task") -> Counted:
    """Return what the examples of one client's task cost.

    Raises:
        UnsupportedProblemError: If a counter raises, or returns no whole number from 0 to
            `MAX_UNITS`.
    """
    return {
        counter.name: Units(_units(counter, task.support), _units(counter, task.query))
        for counter in counters
    }


def add_counted(parts: Iterable[Counted]) -> dict[str, Units]:
    """Return the sums by name."""
    sums: dict[str, Units] = {}
    for part in parts:
        for name, units in part.items():
            sums[name] = sums.get(name, Units()) + units
    return sums


def counted_json(counted: Counted) -> dict[str, dict[str, float]]:
    """Return plain values."""
    return {name: asdict(units) for name, units in counted.items()}


def counted_from_json(record: Mapping[str, Mapping[str, float]]) -> dict[str, Units]:
    """Undo `counted_json`."""
    return {name: Units(**units) for name, units in record.items()}


def _units(counter: Counter, batch: "Batch") -> int:
    try:
        with contained():
            value = counter.function(batch.x, batch.y)
        units = value.item() if hasattr(value, "item") else value
    except Exception as error:  # its text might quote a client's data
        raise UnsupportedProblemError(
            f"counter {counter.name!r} raised {type(error).__name__}; its function must return an "
            "int or a tensor of one entry for the x and y of any client"
        ) from error
    number = isinstance(units, int | float) and 0 <= units <= MAX_UNITS
    if not number or units != int(units):
        raise UnsupportedProblemError(
            f"counter {counter.name!r} returned {units!r}; its function must return a whole number "
            "from 0 to 2^62, e.g. 20 * len(y)"
        )
    return int(units)
