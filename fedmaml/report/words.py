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


def count(value: float) -> str:
    """Return a number of steps or shots; infinity is the whole support."""
    return "all" if math.isinf(value) else f"{value:g}"
