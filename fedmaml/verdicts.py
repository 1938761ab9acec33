"""What may be concluded about strategies from their values at seeds and clients.

A strategy's p-value is the larger of two: the seeds' (would training again give the same answer?)
and the clients' (is it more than a few of them?). Both must be convinced, at 5 % after Holm's
correction, and the interval must leave out 0; else it is "not distinguishable".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedmaml.core import statistics

REFERENCE = "fedavg"
"""What the others are held against."""

_SIGNIFICANT = 0.05

Verdict = Literal["reference", "better", "worse", "not distinguishable", "diverged"]
Values = Sequence[Mapping[int, float]]
"""For each seed, test client -> metric; NaN where undefined, infinite where diverged."""


@dataclass(frozen=True)
class Metric:
    """What the strategies are judged by: name, unit ("1": a fraction), the better direction."""

    name: str
    unit: str
    better: Literal["higher", "lower"]


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
        p_holm: The larger of the two, corrected for the number of strategies.
        verdict: What may be concluded.
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


def judge(
    metric: Metric,
    rounds: Mapping[str, int],
    before: Mapping[str, Values],
    after: Mapping[str, Values],
) -> tuple[Row, ...]:
    """Hold every strategy against the reference.

    Args:
        metric: What the values are.
        rounds: Rounds of training of each strategy; its keys are the strategies.
        before: Values before adaptation, per strategy and seed.
        after: Values after adaptation.

    Returns:
        One row per strategy, in the order given.
    """
    others = [name for name in rounds if name != REFERENCE]
    differences = {name: _paired(after[name], after[REFERENCE]) for name in others}
    clients = {name: statistics.wilcoxon_p_value(differences[name]) for name in others}
    seeds = {name: statistics.seeds_p_value(differences[name]) for name in others}
    larger = [max(clients[name] or 0.0, seeds[name] or 0.0) for name in others]
    undefined = [name for name in others if clients[name] is None]
    tested = [name for name in others if name not in undefined]
    corrected = statistics.holm([larger[others.index(name)] for name in tested])
    holm: dict[str, float] = dict(zip(tested, corrected, strict=True))
    rows = []
    for name in rounds:
        groups = differences.get(name, [])
        mean, interval = statistics.mean_over_seeds(groups), None
        if name != REFERENCE:
            interval = statistics.hierarchical_interval(groups)
        verdict = _verdict(name, metric, mean, interval, holm.get(name))
        rows.append(
            Row(
                strategy=name,
                rounds=rounds[name],
                before=_finite(statistics.mean_over_seeds(_lists(before[name]))),
                after=_finite(statistics.mean_over_seeds(_lists(after[name]))),
                difference=_finite(mean),
                difference_ci95=interval,
                p_clients=clients.get(name),
                p_seeds=seeds.get(name),
                p_holm=holm.get(name),
                verdict=verdict,
                sentence=_sentence(name, verdict, metric, mean, interval, holm.get(name)),
            )
        )
    return tuple(rows)


def _paired(values: Values, reference: Values) -> list[list[float]]:
    """Return value minus reference at the clients of each seed that have both."""
    return [
        [
            0.0 if one[client] == other[client] else one[client] - other[client]  # inf - inf: 0
            for client in sorted(one.keys() & other.keys())
        ]
        for one, other in zip(values, reference, strict=True)
    ]


def _lists(values: Values) -> list[list[float]]:
    return [list(group.values()) for group in values]


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _verdict(
    name: str,
    metric: Metric,
    mean: float | None,
    interval: tuple[float, float] | None,
    p_holm: float | None,
) -> Verdict:
    if name == REFERENCE:
        return "reference"
    if mean is not None and not np.isfinite(mean):
        return "diverged"
    if mean is None or interval is None or p_holm is None or p_holm >= _SIGNIFICANT:
        return "not distinguishable"
    low, high = interval
    if low <= 0 <= high:
        return "not distinguishable"
    return "better" if (mean > 0) == (metric.better == "higher") else "worse"


def _sentence(
    name: str,
    verdict: Verdict,
    metric: Metric,
    mean: float | None,
    interval: tuple[float, float] | None,
    p_holm: float | None,
) -> str:
    if verdict == "reference":
        return f"{name}, fine-tuned at every test client, is what the others are held against."
    if verdict == "diverged":
        return (
            f"{name} cannot be compared: it or fine-tuned FedAvg diverged at a test client; "
            "lower the learning rate of its adaptation."
        )
    if mean is None:
        return f"{name} cannot be compared: {metric.name} is undefined at every test client."
    relation = verdict + (" from" if verdict == "not distinguishable" else " than")
    unit = "" if metric.unit == "1" else f" {metric.unit}"
    figures = [f"{metric.name} {signed(mean)}{unit}"]
    if interval is not None:
        figures.append(f"95 % interval {signed(interval[0])} to {signed(interval[1])}")
    if p_holm is not None:
        figures.append(f"Holm p {p_text(p_holm)}")
    return f"{name} is {relation} fine-tuned FedAvg: {', '.join(figures)}."


# --- numbers as text --------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Return three digits or more, short enough for a row of 80 characters."""
    if value is None:
        return "–"
    size = abs(value)
    if 0 < size < 0.0005 or size >= 100_000:
        return f"{value:.1g}"
    decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:.{decimals}f}"


def signed(value: float | None) -> str:
    """Return `number` with its sign."""
    return number(value) if value is None or value < 0 else f"+{number(value)}"


def p_text(value: float | None) -> str:
    """Return a p-value as one reads it."""
    return "–" if value is None else "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")
