"""The tables of a comparison as text cells, for all renderers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fedmaml.comparison.conclusions import Comparison
from fedmaml.comparison.figures import FigureRow
from fedmaml.comparison.findings import TrainingCost, Tuned
from fedmaml.comparison.verdicts import REFERENCE, Pair, Row, Verdict
from fedmaml.core.counters import Units
from fedmaml.quantities import number, p_text, quantity, signed, support_and_query

SIGNS: dict[Verdict, str] = {
    "better": "+", "worse": "-", "not distinguishable": "~", "one seed": "·",
    "diverged": "?", "not comparable": "?",
}  # fmt: skip
"""A verdict in one character; `LEGEND` explains them."""
LEGEND = (
    "row against column: + better, - worse, ~ not distinguishable, · one seed, no verdict, "
    "? one diverged"
)

_OPPOSITE: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Grid:
    """A table: the first columns hold names, the others numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1

    def beside(self, other: "Grid") -> "Grid":
        """Return both tables side by side, with one column of names."""
        rows = zip(self.rows, other.rows, strict=True)
        return Grid((*self.header, *other.header[1:]), tuple((*a, *b[1:]) for a, b in rows))

    def width(self) -> int:
        """Return the characters of its widest row, with two between columns."""
        columns = zip(self.header, *self.rows, strict=True)
        return sum(max(map(len, column)) + 2 for column in columns)


def verdicts(comparison: Comparison) -> Grid:
    """Return each strategy's metric, and its difference to the reference."""
    header = ("strategy", "rounds", "before", "after", f"vs {REFERENCE}", "95 % interval", "p")
    return Grid(header, tuple(_verdict_cells(row) for row in comparison.rows))


def _verdict_cells(row: Row) -> tuple[str, ...]:
    lost = row.verdict == "diverged" and row.after is None
    after = "diverged" if lost else number(row.after)
    cells = (row.strategy, str(row.rounds), number(row.before), after)
    if row.strategy == REFERENCE:
        return (*cells, "", "", "")
    bounds = row.difference_ci95
    interval = "–" if bounds is None else f"{signed(bounds[0])} to {signed(bounds[1])}"
    return (*cells, signed(row.difference), interval, p_text(row.p_holm))


def took(comparison: Comparison) -> Grid:
    """Return the cost of each strategy's training."""
    header = ("strategy", "rounds", "evaluated after", "bytes sent", "operations")
    rows = [(name, *_took_cells(what)) for name, what in comparison.took.items()]
    return Grid(header, tuple(rows))


def _took_cells(what: TrainingCost) -> tuple[str, ...]:
    first, last = min(what.evaluated_rounds), max(what.evaluated_rounds)
    evaluated = str(first) if first == last else f"{first} to {last}"
    flops = "not reported" if what.flops is None else quantity(what.flops, "FLOP")
    return (str(what.rounds), evaluated, quantity(what.payload_bytes, "B"), flops)


def counter_names(comparison: Comparison) -> list[str]:
    """Return the counters that any strategy's runs have."""
    return list(dict.fromkeys(name for what in comparison.took.values() for name in what.counters))


def spent(comparison: Comparison) -> Grid:
    """Return the units of the examples in each strategy's training, support + query."""
    names = counter_names(comparison)
    rows = [
        (strategy, *(_spent_cell(what.counters.get(name, Units())) for name in names))
        for strategy, what in comparison.took.items()
    ]
    return Grid(("strategy", *names), tuple(rows))


def _spent_cell(units: Units) -> str:
    return support_and_query(asdict(units))


def pairs(comparison: Comparison) -> Grid:
    """Return the verdict on every two strategies, the reference included, as a matrix."""
    said: dict[tuple[str, str], Verdict] = {}
    for row in comparison.rows:
        if row.strategy != REFERENCE:
            said[row.strategy, REFERENCE] = row.verdict
    for pair in comparison.pairs:
        said[pair.first, pair.second] = pair.verdict
    said |= {(b, a): _OPPOSITE.get(verdict, verdict) for (a, b), verdict in said.items()}
    names = [row.strategy for row in comparison.rows]
    rows = tuple(
        (one, *(SIGNS[said[one, other]] if (one, other) in said else "" for other in names))
        for one in names
    )
    return Grid(("", *names), rows)


def references(comparison: Comparison) -> Grid:
    """Return every strategy's difference to every reference and its verdict, below their means."""
    rows = [("the reference", *(number(row.after) for row in comparison.references))]
    for strategy in (row.strategy for row in comparison.rows):
        found = [
            next((pair for pair in row.against if pair.first == strategy), None)
            for row in comparison.references
        ]
        cells = ["diverged" if pair is None else _against(pair) for pair in found]
        rows.append((strategy, *cells))
    return Grid(("", *(row.label for row in comparison.references)), tuple(rows))


def _against(pair: Pair) -> str:
    return f"{signed(pair.difference)} {SIGNS[pair.verdict]}"


def figures(comparison: Comparison) -> Grid:
    """Return every figure of every strategy, and its difference to the reference."""
    header = ("figure", "strategy", "after", f"vs {REFERENCE}", "95 % interval", "p")
    rows = []
    for position, row in enumerate(comparison.figures):
        first = not position or row.label != comparison.figures[position - 1].label
        unit = "" if row.unit == "1" else f" [{row.unit}]"
        rows.append((row.label + unit if first else "", *_figure_cells(row)))
    return Grid(header, tuple(rows), names=2)


def _figure_cells(row: FigureRow) -> tuple[str, ...]:
    if row.strategy == REFERENCE:
        return (row.strategy, number(row.after), "", "", "")
    bounds = row.difference_ci95
    interval = "–" if bounds is None else f"{signed(bounds[0])} to {signed(bounds[1])}"
    return (row.strategy, number(row.after), signed(row.difference), interval, p_text(row.p_holm))


def tuning(comparison: Comparison) -> Grid:
    """Return the tuned settings: that of the recipe, the chosen one, and the gain."""
    header = ("strategy", "setting", "recipe", "tuned", "validation", "failed")
    rows = [row for name, found in comparison.tuning.items() for row in _tuning_rows(name, found)]
    return Grid(header, tuple(rows))


def _tuning_rows(name: str, found: Tuned) -> Sequence[tuple[str, ...]]:
    gain = "–" if found.best is None else f"from {number(found.recipe)} to {number(found.best)}"
    result = (gain, f"{found.failed} of {found.trials}")
    settings = [
        (key, f"{setting.recipe:g}", f"{setting.chosen:g}")
        for key, setting in found.settings.items()
    ] or [("nothing", "", "")]
    first, *others = settings
    return [(name, *first, *result), *(("", *other, "", "") for other in others)]
