"""References in a comparison: predictors that no gradient trains, at the same clients and seeds.

Every strategy is compared with every reference, in a family of p-values of its own. An oracle is
shown, but does not count in the first line: it knows what no client can know.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedmaml.comparison.contrasts import Values
from fedmaml.comparison.diverging import Lost, Runs
from fedmaml.comparison.verdicts import REFERENCE, Metric, Pair, Row, Verdict, compare_with
from fedmaml.core import statistics
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.references import label, values_of


@dataclass(frozen=True)
class ReferenceRow:
    """One reference in the comparison.

    Attributes:
        name: As the scenario names it.
        label: The name with a remark: "not federated", "knows the answer".
        about: What it predicts.
        federated: Whether a federation could compute it.
        oracle: Whether it knows what no client can know.
        settings: The chosen settings of each seed.
        tuned_on: Number of validation clients for the choice; 0: there was no choice.
        after: Mean metric over test clients and seeds; there is nothing before or after it.
        against: Comparison of every strategy that did not diverge with it.
    """

    name: str
    label: str
    about: str
    federated: bool
    oracle: bool
    settings: tuple[dict[str, Any], ...]
    tuned_on: int
    after: float | None
    against: tuple[Pair, ...]


def reference_rows(
    metric: Metric, runs: Runs, after: Mapping[str, Values], lost: Lost
) -> tuple[ReferenceRow, ...]:
    """Return the references that all seeds have, in the scenario's order.

    Args:
        metric: The compared metric.
        runs: Complete ones; those of one seed share their references.
        after: Strategy -> values after adaptation.
        lost: Strategies that diverged.
    """
    seeds = [
        {str(one["name"]): one for one in RunDirectory(path).references()}
        for path in runs[REFERENCE].values()
    ]
    shared = [name for name in seeds[0] if all(name in seed for seed in seeds)]
    values = {
        name: [values_of(seed[name]["clients"], metric.name) for seed in seeds] for name in shared
    }
    sound = {name: one for name, one in after.items() if name not in lost}
    pairs = compare_with(metric, sound, values)
    return tuple(
        _row([seed[name] for seed in seeds], values[name],
             [pair for pair in pairs if pair.second == name])
        for name in shared
    )  # fmt: skip


def _row(
    each: Sequence[Mapping[str, Any]], values: Values, against: Iterable[Pair]
) -> ReferenceRow:
    first = each[0]
    mean = statistics.mean_over_seeds([list(group.values()) for group in values])
    return ReferenceRow(
        name=first["name"],
        label=label(first),
        about=first["about"],
        federated=first["federated"],
        oracle=first["oracle"],
        settings=tuple(dict(one["settings"]) for one in each),
        tuned_on=int(first["tuned_on"]),
        after=statistics.finite(mean),
        against=tuple(against),
    )


def about(row: ReferenceRow) -> str:
    """Return what a reference predicts, with its settings."""
    text = f"{row.label}: {row.about}"
    keys = dict.fromkeys(key for settings in row.settings for key in settings)
    taken = {key: dict.fromkeys(str(settings[key]) for settings in row.settings) for key in keys}
    if not taken:
        return f"{text}."
    settings = ", ".join(f"{key} = {' or '.join(values)}" for key, values in taken.items())
    chosen = f", chosen on {row.tuned_on} validation clients" if row.tuned_on else ""
    return f"{text} ({settings}{chosen})."


# --- the first line ----------------------------------------------------------------------------


def with_rivals(
    headline: str,
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
        headline: The sentence about fine-tuned FedAvg.
        metric: The compared metric.
        rows: Strategies.
        pairs: Every two of them other than `REFERENCE`.
        references: Rows of references.
        baselines: Strategies without meta-learning.
    """
    meta = {row.strategy: row.after for row in rows if row.strategy not in baselines}
    meta = {name: mean for name, mean in meta.items() if mean is not None}
    if not meta or any(row.strategy == REFERENCE and row.verdict == "diverged" for row in rows):
        return headline
    said = _said(rows, pairs, references)
    rivals = {
        **{row.strategy: (f"{row.strategy} (baseline)", row.after)
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
        return _listed([rivals[name][0] for name in names])

    sentences = [headline]
    if beaten_by:
        verb = "is" if len(beaten_by) == 1 else "are"
        first = f"{named(beaten_by)} {verb} significantly better than every meta-learning strategy."
        sentences.insert(0, first)
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


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
