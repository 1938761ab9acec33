"""Metrics of groups of clients, by strategy and by reference: the numbers of a `forest`.

A mark is the mean over the clients of a group, first in each seed, then over seeds. Its interval is
over seeds and clients where a seed has enough clients of the group, else over seeds.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedmaml.comparison.verdicts import Metric
from fedmaml.core import metrics
from fedmaml.core.statistics import Interval, finite, hierarchical_interval, mean_over_seeds
from fedmaml.report import series
from fedmaml.report.reading import Material, Run
from fedmaml.runs.references import values_of

MAX_GROUPS = 24
MAX_LINES = 96
"""Of groups times strategies: 8 inches of paper."""
_FEWEST_GROUPS, _MAX_METRICS = 4, 3
_RESAMPLES = 1999
_READY = {one.name: one for one in vars(metrics).values() if isinstance(one, metrics.Metric)}


@dataclass(frozen=True)
class Mark:
    """The mean of a group, and its interval if there are enough clients or seeds."""

    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class Forest:
    """One metric by the groups of one label.

    Attributes:
        label: As `Scenario.groups` names it.
        metric: After adaptation.
        groups: Group -> most clients of it in one run, from top to bottom.
        left_out: Smaller groups that are not shown.
        lines: Strategy -> group -> mark; a group is missing where its mean is undefined.
        references: Reference -> group -> mean.
    """

    label: str
    metric: Metric
    groups: Mapping[str, int]
    left_out: int
    lines: Mapping[str, Mapping[str, Mark]]
    references: Mapping[str, Mapping[str, float]]


def forests(material: Material) -> Iterator[Forest]:
    """Yield every label with at least two groups, by each metric that the clients have."""
    runs = [run for members in material.runs.values() for run in members]
    labels = dict.fromkeys(
        label for run in runs for row in run.clients for label in row.get("groups", {})
    )
    for label in labels:
        sizes = _sizes(runs, label)
        if len(sizes) < 2:
            continue
        most = min(MAX_GROUPS, max(_FEWEST_GROUPS, MAX_LINES // len(material.runs)))
        kept = sorted(sizes, key=lambda group: (-sizes[group], _natural(group)))[:most]
        groups = {group: sizes[group] for group in sorted(kept, key=_natural)}
        for metric in _metrics(material.metric, runs):
            lines = {
                name: _marks(_by_group(members, label, f"{metric.name}:after"), groups, metric)
                for name, members in material.runs.items()
            }
            references = {
                reference: _means(_of_reference(runs, reference, label, metric.name), groups)
                for reference in series.references_to_draw(material, metric.name, first=True)
            }
            if any(lines.values()):
                left_out = len(sizes) - len(groups)
                yield Forest(label, metric, groups, left_out, lines, references)


# --- numbers ----------------------------------------------------------------------------------


def _sizes(runs: Sequence[Run], label: str) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for run in runs:
        sizes |= Counter(_group_of(run, label).values())
    return dict(sizes)


def _group_of(run: Run, label: str) -> dict[int, str]:
    """Return client -> group, of clients that have the label and are of no further family."""
    return {
        int(row["client"]): str(row["groups"][label])
        for row in run.own_clients
        if label in row.get("groups", {})
    }


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a key that puts "ward 2" before "ward 10"."""
    parts = [part for part in re.split(r"([0-9]+)", name) if part]
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _metrics(headline: Metric, runs: Sequence[Run]) -> list[Metric]:
    """Return the headline metric and the next ones that have a direction and no cells."""
    further = [
        Metric(entry["name"], entry["unit"], entry["better"])
        for entry in runs[0].summary.get("metrics", ())
        if entry["better"] != "neither"
        and any(f"{entry['name']}:after" in row for row in runs[0].clients)
    ]
    return [headline, *further][:_MAX_METRICS]


def _by_group(runs: Sequence[Run], label: str, column: str) -> dict[str, list[list[float]]]:
    """Return group -> seed -> values of its clients."""
    return _grouped([(_group_of(run, label), values_of(run.clients, column)) for run in runs])


def _of_reference(
    runs: Sequence[Run], name: str, label: str, column: str
) -> dict[str, list[list[float]]]:
    """Return group -> seed -> values of a reference; it is the same in all runs of a seed."""
    by_seed = {
        run.table.get("seed"): (_group_of(run, label), values_of(reference["clients"], column))
        for run in runs
        for reference in run.references
        if reference["name"] == name
    }
    return _grouped([*by_seed.values()])


def _grouped(
    seeds: Sequence[tuple[Mapping[int, str], Mapping[int, float]]],
) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    for groups, values in seeds:
        here: dict[str, list[float]] = {}
        for client, value in values.items():
            if client in groups and not np.isnan(value):
                here.setdefault(groups[client], []).append(value)
        for group, members in here.items():
            found.setdefault(group, []).append(members)
    return found


def _means(found: Mapping[str, list[list[float]]], groups: Mapping[str, int]) -> dict[str, float]:
    means = {group: finite(mean_over_seeds(found.get(group, ()))) for group in groups}
    return {group: mean for group, mean in means.items() if mean is not None}


def _marks(
    found: Mapping[str, list[list[float]]], groups: Mapping[str, int], metric: Metric
) -> dict[str, Mark]:
    marks = {}
    for group, mean in _means(found, groups).items():
        interval = hierarchical_interval(found[group], resamples=_RESAMPLES)
        ready = _READY.get(metric.name)
        if ready is not None and ready.unit == metric.unit:
            interval = ready.clipped(interval)
        marks[group] = Mark(mean, interval)
    return marks
