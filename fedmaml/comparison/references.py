"""References in a comparison: predictors that no gradient trains, at the same clients and seeds.

Every strategy is compared with every reference, in a family of p-values of its own. An oracle is
shown, but does not count in the first line: it knows what no client can know.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmaml.comparison.contrasts import Values
from fedmaml.comparison.diverging import Lost, Runs
from fedmaml.comparison.verdicts import REFERENCE, Metric, Pair, compare_with
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
