"""The answer of a comparison in one line: who is better, by how much, and who rivals them."""

from collections.abc import Collection, Sequence
from typing import Literal

from fedmaml.comparison.names import display, listed, metric_name
from fedmaml.comparison.references import ReferenceRow
from fedmaml.comparison.verdicts import REFERENCE, Metric, Pair, Row, Verdict
from fedmaml.quantities import signed


def headline(
    metric: Metric,
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    references: Sequence[ReferenceRow],
    baselines: Collection[str],
) -> str:
    """Return the answer with its effect sizes.

    Args:
        metric: The compared metric.
        rows: Strategies.
        pairs: Every two of them other than `REFERENCE`.
        references: Rows of references.
        baselines: Strategies without meta-learning.
    """
    first = _about_the_reference(metric, rows, baselines)
    return with_rivals(first, metric, rows, pairs, references, baselines)


def _about_the_reference(metric: Metric, rows: Sequence[Row], baselines: Collection[str]) -> str:
    """Return the sentence about fine-tuned FedAvg."""
    lost = [row.strategy for row in rows if row.verdict == "diverged" and row.after is None]
    rest = f" Diverged: {', '.join(map(display, lost))}." if lost else ""
    meta = [row for row in rows if row.strategy not in baselines]
    if REFERENCE in lost:
        return f"Nothing can be compared with fine-tuned FedAvg, which diverged.{rest}"
    if not meta:
        return f"No meta-learning strategy was compared with fine-tuned FedAvg.{rest}"
    if all(row.strategy in lost for row in meta):
        others = [display(name) for name in lost if name in baselines]
        too = f" So did {', '.join(others)}." if others else ""
        named = ", ".join(display(row.strategy) for row in meta)
        return f"Every meta-learning strategy diverged: {named}.{too}"
    if any(row.verdict == "one seed" for row in meta):
        return _about_one_seed(metric, meta) + rest
    if better := [row for row in meta if row.verdict == "better"]:
        return f"Significantly better than fine-tuned FedAvg: {_by_how_much(metric, better)}.{rest}"
    said = "No meta-learning strategy is significantly better than fine-tuned FedAvg."
    return said + _largest(metric, meta) + rest


def _about_one_seed(metric: Metric, meta: Sequence[Row]) -> str:
    """Describe the one training run; nothing is concluded from it."""
    ahead = [
        row for row in meta
        if row.difference and (row.difference > 0) == (metric.better == "higher")
    ]  # fmt: skip
    found = f"ahead of fine-tuned FedAvg: {_by_how_much(metric, ahead)}" if ahead else (
        "no meta-learning strategy is ahead of fine-tuned FedAvg"
    )  # fmt: skip
    return f"In this one training run {found}; one seed is no evidence that another would agree."


def _by_how_much(metric: Metric, rows: Sequence[Row]) -> str:
    """Return "MAML (accuracy +0.067), FOMAML (+0.065)", the largest difference first."""
    first, *others = _best_first(metric, rows)
    unit = "" if metric.unit == "1" else f" {metric.unit}"
    parts = [
        f"{display(first.strategy)} ({metric_name(metric.name)} {signed(first.difference)}{unit})"
    ]
    parts += [f"{display(row.strategy)} ({signed(row.difference)}{unit})" for row in others]
    return ", ".join(parts)


def _largest(metric: Metric, meta: Sequence[Row]) -> str:
    """Return the best difference and its interval, which says how much may still be hidden."""
    if not (ordered := _best_first(metric, meta)):
        return ""
    best = ordered[0]
    unit = "" if metric.unit == "1" else f" {metric.unit}"
    difference = f"{metric_name(metric.name)} {signed(best.difference)}{unit}"
    text = f" The best is {display(best.strategy)}, {difference}"
    if best.difference_ci95 is not None:
        text += f" (95 % interval {' to '.join(map(signed, best.difference_ci95))})"
    return f"{text}."


def _best_first(metric: Metric, rows: Sequence[Row]) -> list[Row]:
    """Return the rows that have a difference, the best one first."""
    sign = -1 if metric.better == "higher" else 1
    known = [(sign * row.difference, row) for row in rows if row.difference is not None]
    return [row for _, row in sorted(known, key=lambda pair: pair[0])]


def with_rivals(
    first: str,
    metric: Metric,
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    references: Sequence[ReferenceRow],
    baselines: Collection[str],
) -> str:
    """Return the first line, extended by baselines and references that rival the winners.

    A rival is a baseline, or a reference that is no oracle. Nothing is added where no meta-learning
    strategy was evaluated, or where fine-tuned FedAvg diverged.

    - Rivals that are significantly better than every meta-learning strategy come first.
    - Rivals whose mean is better than each of theirs, but not significantly, are named.
    - Where some strategies are significantly better than fine-tuned FedAvg, the rivals are named
      that none of them beats significantly.

    Args:
        first: The sentence about fine-tuned FedAvg.
        metric: The compared metric.
        rows: Strategies.
        pairs: Every two of them other than `REFERENCE`.
        references: Rows of references.
        baselines: Strategies without meta-learning.
    """
    meta = {row.strategy: row.after for row in rows if row.strategy not in baselines}
    meta = {name: mean for name, mean in meta.items() if mean is not None}
    if not meta or any(row.strategy == REFERENCE and row.verdict == "diverged" for row in rows):
        return first
    said = _said(rows, pairs, references)
    rivals = {
        **{row.strategy: (f"{display(row.strategy)} (baseline)", row.after)
           for row in rows if row.strategy in baselines},
        **{row.name: (_as_rival(row), row.after) for row in references if not row.oracle},
    }  # fmt: skip
    rivals = {name: (text, mean) for name, (text, mean) in rivals.items() if mean is not None}
    verdicts = {name: [said.get((one, name)) for one in meta] for name in rivals}
    ahead = {
        name for name, (_, mean) in rivals.items()
        if all(_better(metric, mean, other) for other in meta.values())
    }  # fmt: skip
    beaten_by = [name for name in rivals if set(verdicts[name]) == {"worse"}]
    close = [name for name in rivals if name in ahead and name not in beaten_by]
    better = [name for name in meta if said.get((name, REFERENCE)) == "better"]
    unbeaten = [
        name for name in rivals
        if better and name not in (*beaten_by, *close) and "better" not in verdicts[name]
    ]  # fmt: skip

    def named(names: Sequence[str]) -> str:
        return listed([rivals[name][0] for name in names])

    sentences = [first]
    if beaten_by:
        verb = "is" if len(beaten_by) == 1 else "are"
        sentences.insert(
            0, f"{named(beaten_by)} {verb} significantly better than every meta-learning strategy."
        )
    if close:
        sentences.append(
            f"Ahead of every meta-learning strategy, but not significantly: {named(close)}."
        )
    if unbeaten:
        sentences.append(
            f"No meta-learning strategy is significantly better than {named(unbeaten)}."
        )
    return " ".join(sentences)


def _as_rival(row: ReferenceRow) -> str:
    return f"{row.name} (reference)" if row.federated else f"{row.name} (reference, not federated)"


def _better(metric: Metric, one: float | None, other: float | None) -> bool:
    assert one is not None, "rivals without a mean were left out"
    assert other is not None, "strategies without a mean were left out"
    return one > other if metric.better == "higher" else one < other


_OPPOSITE: dict[Verdict, Literal["better", "worse"]] = {"better": "worse", "worse": "better"}


def _said(
    rows: Sequence[Row], pairs: Sequence[Pair], references: Sequence[ReferenceRow]
) -> dict[tuple[str, str], Verdict]:
    """Return (one, other) -> the verdict on the first."""
    said: dict[tuple[str, str], Verdict] = {
        (row.strategy, REFERENCE): row.verdict for row in rows if row.strategy != REFERENCE
    }
    for pair in (*pairs, *(pair for row in references for pair in row.against)):
        said[pair.first, pair.second] = pair.verdict
    return said | {(b, a): _OPPOSITE.get(verdict, verdict) for (a, b), verdict in said.items()}
