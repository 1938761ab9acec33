"""Verdicts of the atlas: the best meta-learning strategy against the best honest baseline."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.tables import Table
from fedmaml.comparison.conclusions import Comparison, is_baseline
from fedmaml.comparison.findings import TrainingCost
from fedmaml.comparison.names import display
from fedmaml.comparison.references import ReferenceRow
from fedmaml.comparison.verdicts import REFERENCE, Metric, Pair, Row
from fedmaml.quantities import signed

WORDS = {
    "better": "helps", "worse": "does not help", "not distinguishable": "ties",
    "one seed": "one seed, no verdict",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What the atlas says about a system.

    Attributes:
        method: Name of the best meta-learning strategy by its mean over test clients.
        baseline: Name of the best of the baselines and of the references that a federation could
            compute.
        value: Mean of ``method`` after adaptation.
        baseline_value: That of ``baseline``.
        difference: ``value`` minus ``baseline_value``, paired.
        low: Lower end of its 95 % interval.
        high: Upper end.
        verdict: Of the comparison: "better", "worse", "not distinguishable", "one seed".
    """

    method: str
    baseline: str
    value: float
    baseline_value: float
    difference: float
    low: float
    high: float
    verdict: str


def shown(name: str) -> str:
    """Return a strategy or a reference as tables name it."""
    return display(name).replace("_", " ")


def verdict_on(comparison: Comparison) -> Verdict:
    """Return the verdict on a system.

    Both sides are chosen by their means over the test clients; the correction for all pairs
    (Holm) covers that choice among strategies.

    Raises:
        ValueError: If no meta-learning strategy, or no baseline, has a mean.
    """
    sign = 1 if comparison.metric.better == "higher" else -1
    finite = {row.strategy: row.after for row in comparison.rows if row.after is not None}
    methods = {name: value for name, value in finite.items() if not is_baseline(name)}
    honest: dict[str, float] = {n: value for n, value in finite.items() if is_baseline(n)}
    references = {
        row.name: row.after for row in comparison.references
        if row.federated and not row.oracle and row.after is not None
    }  # fmt: skip
    if not methods or not honest:
        raise ValueError(f"{comparison.scenario}: nothing to compare, all diverged")
    method = max(methods, key=lambda name: sign * methods[name])
    rivals = honest | references
    baseline = max(rivals, key=lambda name: sign * rivals[name])
    difference, (low, high), verdict = _paired(comparison, method, baseline)
    return Verdict(
        method, baseline, methods[method], rivals[baseline], difference, low, high, verdict
    )


def _paired(
    comparison: Comparison, method: str, baseline: str
) -> tuple[float, tuple[float, float], str]:
    """Return difference, interval and verdict of a strategy against a baseline or a reference."""
    found: Row | Pair
    turned = False
    references = {row.name: row for row in comparison.references}
    if baseline == REFERENCE:
        found = next(row for row in comparison.rows if row.strategy == method)
    elif baseline in references:
        found = _against(references[baseline], method)
    else:
        found = next(
            pair for pair in comparison.pairs if {pair.first, pair.second} == {method, baseline}
        )
        turned = found.first == baseline
    if found.difference is None or found.difference_ci95 is None:
        raise ValueError(f"{comparison.scenario}: {method} and {baseline} have no difference")
    low, high = found.difference_ci95
    if not turned:
        return found.difference, (low, high), found.verdict
    other = {"better": "worse", "worse": "better"}
    return -found.difference, (-high, -low), other.get(found.verdict, found.verdict)


def _against(reference: ReferenceRow, method: str) -> Pair:
    return next(pair for pair in reference.against if pair.first == method)


def words(verdict: Verdict, metric: Metric) -> str:
    """Return the verdict in a few words.

    An interval is not corrected for the number of pairs and a verdict is, so it may exclude zero
    where nothing is concluded.
    """
    if verdict.verdict != "not distinguishable" or verdict.low <= 0 <= verdict.high:
        return WORDS[verdict.verdict]
    ahead = (verdict.difference > 0) == (metric.better == "higher")
    return f"{'ahead' if ahead else 'behind'}, not significantly"


def sentence(verdict: Verdict, metric: Metric) -> str:
    """Return the verdict as a sentence."""
    low, high = signed(verdict.low), signed(verdict.high)
    return (
        f"Meta-learning: {words(verdict, metric)}. {shown(verdict.method)} against "
        f"{shown(verdict.baseline)}: {metric.name} {signed(verdict.difference)}, "
        f"95 % interval {low} to {high}."
    )


def relative(verdict: Verdict, metric: Metric) -> Mapping[str, float]:
    """Return how much of the baseline's error the method removes: mean, low, high.

    The error is 1 - metric for a fraction of which more is better, else the metric; > 0 is better.
    """
    sign = 1 if metric.better == "higher" else -1
    base = verdict.baseline_value
    error = abs(1 - base) if metric.unit == "1" and metric.better == "higher" else abs(base)
    ends = sorted(sign * end / error for end in (verdict.low, verdict.high))
    return {"mean": sign * verdict.difference / error, "low": ends[0], "high": ends[1]}


METHODS = {
    "method": ["{label}"],
    "before": ["{before:~3}"],
    "after": ["{after:~3}", "diverged"],
    "minus FedAvg + fine-tuning": [
        "{difference:+.3f} ({low:+.3f} .. {high:+.3f})", "{verdict}", ""
    ],
    "on shuffled labels": ["{chance:~3}", ""],
    "bytes": ["{megabytes:~3} MB", ""],
    "operations": ["{gigaflops:~3} GFLOP", ""],
}  # fmt: skip
MAP = {
    "system": ["[{title}](atlas/{name}.md)"],
    "verdict": ["{word}"],
    "best meta-learning": ["{method} {value:~3}"],
    "best honest baseline": ["{baseline} {baseline_value:~3}"],
    "difference": ["{metric} {difference:+.3f} ({low:+.3f} .. {high:+.3f})"],
    "bytes": ["{megabytes:~3} MB"],
    "operations": ["{gigaflops:~3} GFLOP", "no products"],
    "settings": ["{trials} trials each", "recipes"],
    "expected figures reached": ["{bands}", ""],
    "minutes": ["{minutes:~2}", ""],
}


def values_of(row: Row, took: TrainingCost) -> dict[str, Any]:
    """Return what a table says of a strategy: its metric, and what it took until then."""
    low, high = row.difference_ci95 or (None, None)
    return {
        "label": shown(row.strategy), "before": row.before, "after": row.after,
        "difference": row.difference, "low": low, "high": high,
        "megabytes": took.payload_bytes / 1e6, "gigaflops": took.flops / 1e9 or None,
    }  # fmt: skip


def table_of_methods(
    comparison: Comparison, shuffled: Comparison | None, figures: Collection[str] = ()
) -> Table:
    """Return one row for each strategy and reference, the best first.

    Args:
        comparison: Of a system.
        shuffled: The same where there is nothing to learn; None where that was not run.
        figures: Further figures of strategies that rows hold, which the table does not show.
    """
    sign = -1 if comparison.metric.better == "higher" else 1
    chance: dict[str, float | None] = {}
    if shuffled is not None:
        chance = {row.strategy: row.after for row in shuffled.rows}
        chance |= {row.name: row.after for row in shuffled.references}
    rows: dict[str, dict[str, Any]] = {}
    for row in comparison.rows:
        took = comparison.took[row.strategy]
        rows[row.strategy] = values_of(row, took) | {"chance": chance.get(row.strategy)}
        if took.counters:
            rows[row.strategy]["units"] = {name: vars(each) for name, each in took.counters.items()}
    for figure in comparison.figures:
        if figure.label in figures:
            values = rows[figure.strategy].setdefault("figures", {})
            values[figure.label] = {"before": figure.before, "after": figure.after}
    for reference in comparison.references:
        against = {pair.first: pair for pair in reference.against}.get(REFERENCE)
        values = {"label": reference.label, "after": reference.after}
        values["chance"] = chance.get(reference.name)
        if against is not None and against.difference is not None and against.difference_ci95:
            low, high = against.difference_ci95
            values |= {"difference": -against.difference, "low": -high, "high": -low}
        rows[reference.name] = values
    ordered = sorted(
        rows, key=lambda name: (rows[name]["after"] is None, sign * (rows[name]["after"] or 0.0))
    )
    counted = dict.fromkeys(name for took in comparison.took.values() for name in took.counters)
    columns = {
        f"{name.replace('_', ' ')}, support + query": [
            f"{{units[{name}][support]:,.0f}} + {{units[{name}][query]:,.0f}}", ""
        ]
        for name in counted
    }  # fmt: skip
    return Table(METHODS | columns, {name: rows[name] for name in ordered})


def row_of_map(title: str, comparison: Comparison) -> dict[str, Any]:
    """Return a system's row of the map."""
    verdict = verdict_on(comparison)
    took = comparison.took[verdict.method]
    return {
        "title": title, "word": words(verdict, comparison.metric), "metric": comparison.metric.name,
        **vars(verdict), "method": shown(verdict.method), "baseline": shown(verdict.baseline),
        "sentence": sentence(verdict, comparison.metric),
        "removed": relative(verdict, comparison.metric), "seeds": comparison.seeds,
        "clients": comparison.clients, "megabytes": took.payload_bytes / 1e6,
        "gigaflops": took.flops / 1e9 or None,
    }  # fmt: skip
