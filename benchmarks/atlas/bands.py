"""Expected figures of a system beside those that were found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.tables import Table

Rows = Mapping[str, Mapping[str, Any]]
"""Strategy or reference -> its row in the table of methods."""

BANDS = {"figure": ["{what}"], "expected": ["{expected}"], "found": ["{found:~3}"],
         "": ["{reached}"]}  # fmt: skip


@dataclass(frozen=True)
class Band:
    """A range that a figure was expected in, before it was measured here.

    Attributes:
        of: A strategy or reference, or two: "maml - fedavg", "maml / meta_sgd"; " before" after a
            name means the figure before adaptation.
        least: Lower end; None: no limit.
        most: Upper end; None: no limit.
        figure: A further metric or figure of strategies; "": the headline metric.
    """

    of: str
    least: float | None = None
    most: float | None = None
    figure: str = ""

    def names(self) -> list[str]:
        """Return the one or two rows that it is about."""
        return [_stage_of(operand)[0] for operand in self._operands()]

    def found(self, rows: Rows) -> float | None:
        """Return the figure in a table of methods; None where a row or its value is missing."""
        first, *second = (self._value(rows, operand) for operand in self._operands())
        if not second:
            return first
        if first is None or second[0] is None:
            return None
        return first / second[0] if " / " in self.of else first - second[0]

    def holds(self, value: float) -> bool:
        """Return whether a value is in the range."""
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    def described(self, rows: Rows) -> str:
        """Return what is expected, with the names that the table of methods shows."""
        shown = []
        for operand in self._operands():
            name, stage = _stage_of(operand)
            label = rows[name]["label"]
            shown.append(f"{label} before adapting" if stage == "before" else label)
        what = (" over " if " / " in self.of else " minus ").join(shown)
        return f"{self.figure}: {what}" if self.figure else what

    def limits(self) -> str:
        """Return the range in words."""
        if self.least is None:
            return f"at most {self.most:g}"
        if self.most is None:
            return f"at least {self.least:g}"
        return f"{self.least:g} to {self.most:g}"

    def _operands(self) -> list[str]:
        return self.of.split(" / " if " / " in self.of else " - ")

    def _value(self, rows: Rows, operand: str) -> float | None:
        name, stage = _stage_of(operand)
        row = rows.get(name, {})
        values = row.get("figures", {}).get(self.figure, {}) if self.figure else row
        value: float | None = values.get(stage)
        return value


def _stage_of(operand: str) -> tuple[str, str]:
    name = operand.removesuffix(" before")
    return name, "after" if name == operand else "before"


def table_of_bands(bands: Sequence[Band], rows: Rows) -> Table:
    """Return one row for each band whose figure was measured."""
    found = {}
    for place, band in enumerate(bands):
        value = band.found(rows)
        if value is not None:
            found[str(place)] = {
                "what": band.described(rows), "expected": band.limits(), "found": value,
                "reached": "reached" if band.holds(value) else "**missed**",
            }  # fmt: skip
    return Table(BANDS, found)


def reached(bands: Sequence[Band], rows: Rows) -> str:
    """Return how many bands were reached, "3 of 4"; "" without any."""
    values = [(band, band.found(rows)) for band in bands]
    held = [band.holds(value) for band, value in values if value is not None]
    return f"{sum(held)} of {len(held)}" if held else ""
