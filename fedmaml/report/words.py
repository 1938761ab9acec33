"""Words: readable names, and text alternatives of figures."""

import math
from collections.abc import Mapping, Sequence

from fedmaml.comparison.names import display, metric_name
from fedmaml.comparison.verdicts import Metric, Row
from fedmaml.core.statistics import finite
from fedmaml.quantities import number, quantity, signed
from fedmaml.report.series import Curve, Spread


def shown(name: str) -> str:
    """Return the readable name of a line: a strategy, or a run of it, "maml · seed1"."""
    strategy, dot, run = name.partition(" · ")
    return f"{display(strategy)}{dot}{run}"


def metric_label(metric: Metric) -> str:
    """Return the name of a metric and its unit."""
    return metric_name(metric.name) + (f" [{metric.unit}]" if metric.unit != "1" else "")


def capital(text: str) -> str:
    """Return a text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def differences(rows: Sequence[Row]) -> str:
    """Return every strategy's difference to the reference with its interval."""
    parts = []
    for row in rows:
        text = f"{display(row.strategy)} {signed(row.difference)}"
        if row.difference_ci95 is not None:
            text += f" ({signed(row.difference_ci95[0])} to {signed(row.difference_ci95[1])})"
        parts.append(text)
    return f"Difference to fine-tuned FedAvg: {'; '.join(parts)}."


def curves(drawn: Mapping[str, Curve], over: str, label: str) -> str:
    """Return the first and the last value of every line."""
    parts = []
    for name, curve in drawn.items():
        first, last = (number(finite(value)) for value in (curve.mean[0], curve.mean[-1]))
        parts.append(f"{shown(name)} from {first} to {last}")
    return f"{label} over {over}: {'; '.join(parts)}."


def pareto(points: Mapping[str, tuple[float, float]], best: Sequence[str], scale: str) -> str:
    """Return every point, and the names on the Pareto front."""
    unit = "B" if scale == "bytes" else "FLOP"
    parts = [
        f"{shown(name)} {number(value)} for {quantity(cost, unit)}"
        for name, (cost, value) in points.items()
    ]
    front = ", ".join(map(shown, best))
    return f"{'; '.join(parts)}. On the front: {front}."


def clients(spreads: Mapping[str, Spread]) -> str:
    """Return median, worst decile and standard deviation of every strategy."""
    parts = [
        f"{shown(name)}: median {number(spread.median)}, "
        f"worst decile {number(spread.worst_decile)}, standard deviation {number(spread.deviation)}"
        for name, spread in spreads.items()
    ]
    return "; ".join(parts) + "."


def references(means: Mapping[str, float]) -> str:
    """Return the mean of every reference; "" if there are none."""
    parts = [f"{name} {number(value)}" for name, value in means.items()]
    return f" References: {'; '.join(parts)}." if parts else ""


def groups(means: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> str:
    """Return the means of every group: of strategies, and of references."""
    parts = []
    for group in names:
        found = [
            f"{shown(name)} {number(by_group[group])}"
            for name, by_group in means.items()
            if group in by_group
        ]
        parts.append(f"{group}: {', '.join(found) or 'undefined'}")
    return "; ".join(parts) + "."


def pairs(name: str, clients: int, ours: str, theirs: str, equal: str) -> str:
    """Return at which share of the clients which strategy is better."""
    return (
        f"Of {clients:,} clients of all seeds, {name} is better at {ours}, fine-tuned FedAvg at "
        f"{theirs}; they are equal at {equal}."
    )


def cells(
    ends: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    names: Sequence[str],
    stages: Sequence[str],
) -> str:
    """Return the first and the last value of every cell."""
    parts = []
    for strategy, (first, last) in ends.items():
        changes = [
            f"{name} from {number(finite(start))} to {number(finite(end))}"
            for name, start, end in zip(names, first, last, strict=True)
        ]
        parts.append(f"{shown(strategy)}: {', '.join(changes)}")
    return f"From {stages[0]} to {stages[-1]}: {'; '.join(parts)}."


def count(value: float) -> str:
    """Return a number of steps or shots; infinity is the whole support."""
    return "all" if math.isinf(value) else f"{value:g}"
