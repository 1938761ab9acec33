"""The tables of a comparison as text cells, for all renderers."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from fedmaml.comparison.conclusions import Comparison
from fedmaml.comparison.figures import FigureRow
from fedmaml.comparison.findings import TrainingCost, Tuned
from fedmaml.comparison.names import display, metric_name
from fedmaml.comparison.verdicts import REFERENCE, Pair, Row, Verdict
from fedmaml.core.counters import Units
from fedmaml.quantities import number, p_text, quantity, signed, support_and_query
from fedmaml.tables.table import Table


@dataclass(frozen=True)
class Sign:
    """How a verdict is shown: in files and on the terminal, on the page of a report, its colour."""

    plain: str
    drawn: str
    colour: str | None = None


SIGNS: dict[Verdict, Sign] = {
    "reference": Sign("", "●"),
    "better": Sign("+", "▲", "green"),
    "worse": Sign("-", "▼", "red"),
    "not distinguishable": Sign("~", "≈"),
    "one seed": Sign("·", "·"),
    "diverged": Sign("?", "✕", "yellow"),
    "not comparable": Sign("?", "✕", "yellow"),
}
"""The only place that says how a verdict looks; `LEGEND` explains the plain ones."""
LEGEND = (
    "row against column: + better, - worse, ~ not distinguishable, · one seed, no verdict, "
    "? one diverged"
)
SPENT = "What its examples cost, support + query"

_OPPOSITE: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}


def title(comparison: Comparison) -> str:
    """Return what is compared, by what and over whom."""
    metric = comparison.metric
    unit = "" if metric.unit == "1" else f" [{metric.unit}]"
    seeds = "1 seed" if comparison.seeds == 1 else f"{comparison.seeds} seeds"
    return (
        f"{comparison.scenario} · {metric.name}{unit}, {metric.better} is better · {seeds} × "
        f"{comparison.clients} test clients"
    )


def verdicts(comparison: Comparison) -> Table:
    """Return each strategy's metric, and its difference to the reference."""
    header = (
        "strategy",
        "rounds",
        "before",
        "after",
        f"vs {display(REFERENCE)}",
        "95 % interval",
        "p",
    )
    rows = tuple(_verdict_cells(row) for row in comparison.rows)
    styles = tuple(SIGNS[row.verdict].colour for row in comparison.rows)
    return Table(title(comparison), header, rows, styles=styles)


IMPORTANT = ("after", "difference", "95 % interval", "p", "before")
"""Columns of `for_papers` that an article needs first."""


def for_papers(comparison: Comparison) -> Table:
    """Return `verdicts` with a caption that explains it in an article."""
    table, metric = verdicts(comparison), comparison.metric
    unit = "" if metric.unit == "1" else f" [{metric.unit}]"
    seeds = "1 seed" if comparison.seeds == 1 else f"{comparison.seeds} seeds"
    caption = (
        f"{metric_name(metric.name).capitalize()}{unit} on {comparison.scenario} "
        f"({metric.better} is better): means over {seeds} and {comparison.clients} test clients "
        "after they adapted; paired difference to fine-tuned FedAvg with its 95 % interval, and "
        "p-value after Holm"
    )
    header = tuple("difference" if head.startswith("vs ") else head for head in table.header)
    return replace(table, caption=caption, header=header)


def _verdict_cells(row: Row) -> tuple[str, ...]:
    lost = row.verdict == "diverged" and row.after is None
    after = "diverged" if lost else number(row.after)
    return (
        display(row.strategy),
        str(row.rounds),
        number(row.before),
        after,
        *difference_cells(row),
    )


def difference_cells(row: Row | FigureRow) -> tuple[str, str, str]:
    """Return difference to the reference, interval and p-value; the reference's own are empty."""
    if row.strategy == REFERENCE:
        return ("", "", "")
    return (signed(row.difference), interval(row.difference_ci95, signed), p_text(row.p_holm))


def interval(bounds: Sequence[float] | None, text: Callable[[float], str]) -> str:
    """Return both ends of an interval; a dash if there is none."""
    return "–" if bounds is None else " to ".join(map(text, bounds))


def took(comparison: Comparison) -> Table:
    """Return the cost of each strategy's training."""
    header = ("strategy", "rounds", "evaluated after", "bytes sent", "operations")
    rows = [(display(name), *_took_cells(what)) for name, what in comparison.took.items()]
    return Table("What training took, mean over seeds", header, tuple(rows))


def _took_cells(what: TrainingCost) -> tuple[str, ...]:
    first, last = min(what.evaluated_rounds), max(what.evaluated_rounds)
    evaluated = str(first) if first == last else f"{first} to {last}"
    flops = "not reported" if what.flops is None else quantity(what.flops, "FLOP")
    return (str(what.rounds), evaluated, quantity(what.payload_bytes, "B"), flops)


def counter_names(comparison: Comparison) -> list[str]:
    """Return the counters that any strategy's runs have."""
    return list(dict.fromkeys(name for what in comparison.took.values() for name in what.counters))


def spent(comparison: Comparison) -> Table:
    """Return the units of the examples in each strategy's training, support + query."""
    names = counter_names(comparison)
    rows = [
        (display(strategy), *(_spent_cell(what.counters.get(name, Units())) for name in names))
        for strategy, what in comparison.took.items()
    ]
    return Table(SPENT, ("strategy", *names), tuple(rows))


def _spent_cell(units: Units) -> str:
    return support_and_query(asdict(units))


def pairs(comparison: Comparison) -> Table:
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
        (
            display(one),
            *(SIGNS[said[one, other]].plain if (one, other) in said else "" for other in names),
        )
        for one in names
    )
    return Table("Every two strategies", ("", *map(display, names)), rows)


def references(
    comparison: Comparison, itself: str = "the reference", *, drawn: bool = False
) -> Table:
    """Return every strategy's difference to every reference and its verdict, below their means.

    Args:
        comparison: What was compared.
        itself: The head of the row of the references' means.
        drawn: Show verdicts by the signs of a report's page.
    """
    rows = [(itself, *(number(row.after) for row in comparison.references))]
    for strategy in (row.strategy for row in comparison.rows):
        found = [
            next((pair for pair in row.against if pair.first == strategy), None)
            for row in comparison.references
        ]
        rows.append((display(strategy), *(_against(pair, drawn) for pair in found)))
    header = ("", *(row.label for row in comparison.references))
    return Table("Strategy minus reference", header, tuple(rows))


def _against(pair: Pair | None, drawn: bool) -> str:
    if pair is None:
        return "diverged"
    sign = SIGNS[pair.verdict]
    return f"{signed(pair.difference)} {sign.drawn if drawn else sign.plain}"


def figures(comparison: Comparison) -> Table:
    """Return every figure of every strategy, and its difference to the reference."""
    header = ("figure", "strategy", "after", f"vs {display(REFERENCE)}", "95 % interval", "p")
    rows = []
    for position, row in enumerate(comparison.figures):
        first = not position or row.label != comparison.figures[position - 1].label
        unit = "" if row.unit == "1" else f" [{row.unit}]"
        label = row.label + unit if first else ""
        rows.append((label, display(row.strategy), number(row.after), *difference_cells(row)))
    caption = "Further metrics and figures; intervals of the differences"
    return Table(caption, header, tuple(rows), (0, 1))


def tuning(comparison: Comparison) -> Table:
    """Return the tuned settings: that of the recipe, the chosen one, and the gain."""
    header = ("strategy", "setting", "recipe", "tuned", "validation", "failed")
    rows = [row for name, found in comparison.tuning.items() for row in _tuning_rows(name, found)]
    return Table("Tuning, on validation clients", header, tuple(rows))


def _tuning_rows(name: str, found: Tuned) -> Sequence[tuple[str, ...]]:
    gain = "–" if found.best is None else f"from {number(found.recipe)} to {number(found.best)}"
    result = (gain, f"{found.failed} of {found.trials}")
    settings = [
        (key, f"{setting.recipe:g}", f"{setting.chosen:g}")
        for key, setting in found.settings.items()
    ] or [("nothing", "", "")]
    first, *others = settings
    return [(display(name), *first, *result), *(("", *other, "", "") for other in others)]
