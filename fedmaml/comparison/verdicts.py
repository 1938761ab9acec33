"""Verdicts on strategies from their values at seeds and clients.

A strategy's p-value is the larger of two: that of the seeds (would training again give the same
answer?) and that of the clients (is it more than a few of them?). The verdict needs p below 5 %
after Holm's correction and an interval without 0; else it is "not distinguishable". One seed cannot
answer the first question, so nothing is concluded from it: the verdict is "one seed", and the
sentence describes this one training run.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from fedmaml.comparison.contrasts import NOTHING, Contrast, Values, contrast, holm_within
from fedmaml.comparison.names import display
from fedmaml.core import statistics
from fedmaml.core.records import Better
from fedmaml.core.statistics import MIN_UNITS
from fedmaml.quantities import p_text, signed

REFERENCE = "fedavg"
"""The strategy with which the others are compared."""

_SIGNIFICANT = 0.05

Verdict = Literal[
    "reference", "better", "worse", "not distinguishable", "one seed", "diverged", "not comparable"
]
"""diverged: this strategy did, or one of the two; not comparable: only the reference did."""


@dataclass(frozen=True)
class Metric:
    """The compared metric: name, unit ("1": a fraction), the better direction."""

    name: str
    unit: str
    better: Better


@dataclass(frozen=True)
class Row:
    """One strategy in the comparison.

    Attributes:
        strategy: Its name.
        rounds: Rounds of training.
        before: Mean metric over test clients and seeds before adaptation.
        after: The same after adaptation. It has no interval of its own: whether two such intervals
            overlap says nothing about a paired difference.
        difference: Mean of ``after`` minus the reference's, paired by seed and client.
        difference_ci95: Interval of ``difference``.
        p_clients: Wilcoxon's signed-rank test over all (seed, client) pairs.
        p_seeds: Student's t-test on the seeds' means; None for one seed.
        p_holm: The larger of the two, corrected for the number of strategies; None for one seed.
        verdict: The conclusion.
        sentence: The same in words.
    """

    strategy: str
    rounds: int
    before: float | None
    after: float | None
    difference: float | None
    difference_ci95: tuple[float, float] | None
    p_clients: float | None
    p_seeds: float | None
    p_holm: float | None
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Pair:
    """Two strategies, neither of them the reference.

    Attributes:
        first: One of them.
        second: The other.
        difference: Mean of the first's values after adaptation minus the second's, paired.
        difference_ci95: Interval of ``difference``.
        p_clients: As in `Row`.
        p_seeds: As in `Row`.
        p_holm: The larger of the two, corrected for the number of pairs.
        verdict: The conclusion about the first.
        sentence: The same in words.
    """

    first: str
    second: str
    difference: float | None
    difference_ci95: tuple[float, float] | None
    p_clients: float | None
    p_seeds: float | None
    p_holm: float | None
    verdict: Verdict
    sentence: str


def evaluate(
    metric: Metric,
    rounds: Mapping[str, int],
    before: Mapping[str, Values],
    after: Mapping[str, Values],
) -> tuple[Row, ...]:
    """Compare every strategy with the reference.

    A strategy that diverged at one client has no mean, and so no difference. If this is the
    reference, only the reference has diverged; the others keep their means, without tests.

    Args:
        metric: What the values are.
        rounds: Rounds of training of each strategy; its keys are the strategies.
        before: Values before adaptation, per strategy and seed.
        after: Values after adaptation.

    Returns:
        One row per strategy, in the order given.
    """
    means = {name: statistics.mean_over_seeds(_lists(after[name])) for name in rounds}
    lost = {name for name, mean in means.items() if mean is not None and not np.isfinite(mean)}
    contrasts = {
        name: contrast(after[name], after[REFERENCE])
        for name in rounds
        if name != REFERENCE and REFERENCE not in lost
    }
    corrected = holm_within(contrasts)
    rows = []
    for name in rounds:
        found = contrasts.get(name, NOTHING)
        p_holm = corrected.get(name)
        verdict = _standing(name, lost) or verdict_of(metric, found, p_holm)
        rows.append(
            Row(
                strategy=name,
                rounds=rounds[name],
                before=statistics.finite(statistics.mean_over_seeds(_lists(before[name]))),
                after=statistics.finite(means[name]),
                difference=statistics.finite(found.mean),
                difference_ci95=found.interval,
                p_clients=found.p_clients,
                p_seeds=found.p_seeds,
                p_holm=p_holm,
                verdict=verdict,
                sentence=sentence_of(name, verdict, metric, found, p_holm),
            )
        )
    return tuple(rows)


def compare_pairs(metric: Metric, after: Mapping[str, Values]) -> tuple[Pair, ...]:
    """Compare every two strategies other than the reference with each other.

    Their p-values are a family of their own, separate from those of `evaluate`.

    Args:
        metric: What the values are.
        after: Strategy -> values after adaptation.

    Returns:
        One for each two strategies, in the order given.
    """
    names = [name for name in after if name != REFERENCE]
    return _pairs(
        metric, {two: contrast(after[two[0]], after[two[1]]) for two in combinations(names, 2)}
    )


def compare_with(
    metric: Metric, after: Mapping[str, Values], others: Mapping[str, Values]
) -> tuple[Pair, ...]:
    """Compare every strategy with every one of others, which are no strategies.

    Their p-values are a family of their own.

    Args:
        metric: What the values are.
        after: Strategy -> values after adaptation.
        others: Name -> values at the same seeds and clients.

    Returns:
        For each of the others one pair for each strategy, which comes first in it.
    """
    return _pairs(
        metric,
        {(one, other): contrast(after[one], others[other]) for other in others for one in after},
    )


def _pairs(metric: Metric, contrasts: Mapping[tuple[str, str], Contrast]) -> tuple[Pair, ...]:
    """Return the verdicts on a family of pairs."""
    corrected = holm_within(contrasts)
    pairs = []
    for (first, second), found in contrasts.items():
        p_holm = corrected.get((first, second))
        verdict = verdict_of(metric, found, p_holm)
        pairs.append(
            Pair(
                first=first,
                second=second,
                difference=statistics.finite(found.mean),
                difference_ci95=found.interval,
                p_clients=found.p_clients,
                p_seeds=found.p_seeds,
                p_holm=p_holm,
                verdict=verdict,
                sentence=sentence_of(first, verdict, metric, found, p_holm, second),
            )
        )
    return tuple(pairs)


def too_few(clients: int) -> str:
    """Return why there is no interval."""
    return (
        f"no interval: {clients} test client{'s' * (clients != 1)}, {MIN_UNITS} are needed, or "
        f"{MIN_UNITS} seeds"
    )


def _lists(values: Values) -> list[list[float]]:
    return [list(group.values()) for group in values]


def _standing(name: str, lost: Collection[str]) -> Verdict | None:
    """Return the verdict that needs no test, if there is one."""
    if name in lost:
        return "diverged"
    if name == REFERENCE:
        return "reference"
    return "not comparable" if REFERENCE in lost else None


def verdict_of(metric: Metric, found: Contrast, p_holm: float | None) -> Verdict:
    """Return the verdict on a strategy from its difference to another one."""
    mean, interval = found.mean, found.interval
    if mean is not None and not np.isfinite(mean):
        return "diverged"
    if found.seeds == 1 and mean is not None:
        return "one seed"
    if mean is None or interval is None or p_holm is None or p_holm >= _SIGNIFICANT:
        return "not distinguishable"
    low, high = interval
    if low <= 0 <= high:
        return "not distinguishable"
    return "better" if (mean > 0) == (metric.better == "higher") else "worse"


def sentence_of(
    name: str,
    verdict: Verdict,
    metric: Metric,
    found: Contrast,
    p_holm: float | None,
    other: str = "fine-tuned FedAvg",
) -> str:
    """Return the verdict in words."""
    is_reference, name, other = name == REFERENCE, display(name), display(other)
    mean, interval = found.mean, found.interval
    if verdict == "reference":
        return f"All others are compared with {name}, fine-tuned at every test client."
    if verdict == "not comparable":
        return f"{name} cannot be compared with {other}, which diverged at a test client."
    if verdict == "diverged" and is_reference:
        return (
            f"{name} diverged at a test client, so nothing can be compared with it; lower the "
            "learning rate of its adaptation."
        )
    if verdict == "diverged":
        return (
            f"{name} cannot be compared with {other}: one of them diverged at a test client; lower "
            "the learning rate of its adaptation."
        )
    if mean is None:
        return (
            f"{name} cannot be compared with {other}: {metric.name} is undefined at every test "
            "client."
        )
    unit = "" if metric.unit == "1" else f" {metric.unit}"
    figures = [f"{metric.name} {signed(mean)}{unit}"]
    if interval is not None:
        of_seeds = " over seeds alone" if found.clients < MIN_UNITS else ""
        whose = " over test clients" if verdict == "one seed" else of_seeds
        figures.append(f"95 % interval{whose} {signed(interval[0])} to {signed(interval[1])}")
    elif found.clients < MIN_UNITS:
        figures.append(too_few(found.clients))
    if verdict == "one seed":
        return (
            f"In this one training run {name} differs from {other}: {', '.join(figures)}. "
            "Whether another run would agree is not known; ask with --seeds 5."
        )
    relation = verdict + (" from" if verdict == "not distinguishable" else " than")
    if p_holm is not None:
        figures.append(f"Holm p {p_text(p_holm)}")
    return f"{name} is {relation} {other}: {', '.join(figures)}."
