"""Figures beside the headline metric: each strategy's, and its difference to the reference.

They are what the scenario declares, the means of its further metrics and, for a further family of
test clients, those of all metrics. Each figure is tested alone: its p-values are corrected
for the number of strategies, not for the number of figures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmaml.comparison.contrasts import NOTHING, Contrast, holm_within
from fedmaml.comparison.verdicts import REFERENCE, Metric, Verdict, sentence_of, verdict_of
from fedmaml.config import resolve
from fedmaml.core import metrics as core_metrics
from fedmaml.core import statistics
from fedmaml.core.figures import Clients, Figure, clients_table, mean, of_family
from fedmaml.core.records import Better
from fedmaml.core.resampling import (
    Resampled,
    figure_interval,
    resample,
    why_no_interval,
    within_p_value,
)
from fedmaml.core.statistics import Interval
from fedmaml.runs.directory import RunDirectory

MAX_CELLS = 6
"""Cells of a metric that are compared."""

Rows = Sequence[Mapping[str, Any]]
"""Content of ``clients.jsonl``."""


@dataclass(frozen=True)
class FigureRow:
    """A figure of one strategy.

    Attributes:
        figure: Its name.
        unit: Of all values; "1" for a fraction.
        better: Which direction is better; "neither" has no verdict.
        family: Whose clients; "" for the scenario's own.
        resampled: What intervals resample.
        strategy: Name of the strategy.
        before: Mean over seeds before adaptation.
        after: The same after adaptation.
        after_ci95: Interval of ``after``. An overlap of two proves nothing about a difference.
        difference: Mean over seeds of ``after`` minus the reference's.
        difference_ci95: Its interval, paired by seed and by what is resampled.
        p_units: Student's t on what varies within seeds.
        p_seeds: Student's t on the seeds' differences; None for one seed.
        p_holm: The larger of the two, corrected for the number of strategies; None for one seed.
        verdict: The conclusion; "" where neither direction is better.
        sentence: The same in words, or why there is no value.
    """

    figure: str
    unit: str
    better: Better
    family: str
    resampled: str
    strategy: str
    before: float | None
    after: float | None
    after_ci95: Interval | None
    difference: float | None
    difference_ci95: Interval | None
    p_units: float | None
    p_seeds: float | None
    p_holm: float | None
    verdict: Verdict | None
    sentence: str

    @property
    def label(self) -> str:
        """The figure's name, with its family unless that is the scenario's own."""
        return f"{self.figure} · {self.family}" if self.family else self.figure


def conclude_figures(
    runs: Mapping[str, Mapping[int, Path]], table: Mapping[str, Any], lost: Mapping[str, str]
) -> tuple[FigureRow, ...]:
    """Return all figures of complete runs, figure by figure.

    Args:
        runs: Strategy -> seed -> its run directory.
        table: Configuration of one of them, all of one scenario and task.
        lost: Strategies that diverged; they have no figures.
    """
    config = resolve(table)
    scenario, problem = config.make_scenario(), config.make_problem()
    found = {
        name: [RunDirectory(path).clients() for path in seeds.values()]
        for name, seeds in runs.items()
        if name not in lost
    }
    families = dict.fromkeys(
        row.get("family", "") for seeds in found.values() for rows in seeds for row in rows
    )
    rows: list[FigureRow] = []
    for family in families:
        declared = of_family(scenario.figures(), problem.metrics, family)
        of_metrics = _means_of(problem.metrics[1:]) if not family else ()
        tables = {
            stage: _tables(found, problem.metrics, family, stage) for stage in ("before", "after")
        }
        for figure in (*of_metrics, *declared):
            rows += _rows(figure, family, list(runs[REFERENCE]), tables)
    return tuple(rows)


def _means_of(metrics: Sequence[core_metrics.Metric]) -> tuple[Figure, ...]:
    """Return the means of metrics and of their cells, the first of them, as figures."""
    cells = [
        Figure(column, metric.unit, metric.better, _mean_of(column))
        for metric in metrics if metric.cells for column in metric.columns[:MAX_CELLS]
    ]  # fmt: skip
    scalars = [m for m in metrics if not m.cells and m.better != "neither"]
    return (*map(mean, scalars), *cells)


def _mean_of(column: str) -> Any:
    return lambda clients: float(np.nanmean(clients[column]))


# --- tables -----------------------------------------------------------------------------------

Tables = Mapping[str, Sequence[Clients]]
"""Strategy -> for each seed the clients that were evaluated with every strategy."""


def _tables(
    found: Mapping[str, Sequence[Rows]],
    metrics: Sequence[core_metrics.Metric],
    family: str,
    stage: str,
) -> Tables:
    members = {
        name: [{row["client"]: row for row in rows if row.get("family", "") == family}
               for rows in seeds]
        for name, seeds in found.items()
    }  # fmt: skip
    everywhere = [
        sorted(set.intersection(*(set(rows) for rows in seeds)))
        for seeds in zip(*members.values(), strict=True)
    ]
    return {
        name: [
            _table([rows[client] for client in clients], metrics, stage)
            for rows, clients in zip(seeds, everywhere, strict=True)
        ]
        for name, seeds in members.items()
    }


def _table(rows: Rows, metrics: Sequence[core_metrics.Metric], stage: str) -> Clients:
    columns = {
        f"{column}:{stage}": [_value(row.get(f"{column}:{stage}")) for row in rows]
        for metric in metrics for column in metric.columns
    }  # fmt: skip
    groups = [row.get("groups", {}) for row in rows]
    return clients_table([row["client"] for row in rows], columns, metrics, groups, stage)


def _value(stored: object) -> float:
    if isinstance(stored, int | float):
        return float(stored)
    return math.nan if stored is None else math.inf  # "diverged"


# --- what they say ----------------------------------------------------------------------------


def _rows(
    figure: Figure, family: str, seeds: Sequence[int], tables: Mapping[str, Tables]
) -> list[FigureRow]:
    values = {
        name: [resample(figure, clients, seed) for seed, clients in zip(seeds, each, strict=True)]
        for name, each in tables["after"].items()
    }
    reference = values.get(REFERENCE)
    contrasts = {
        name: _contrast([a.minus(b) for a, b in zip(found, reference, strict=True)])
        for name, found in values.items()
        if reference is not None and name != REFERENCE
    }
    corrected = holm_within(contrasts)
    metric = Metric(figure.name, figure.unit, figure.better)
    rows = []
    for name, found in values.items():
        difference, p_holm = contrasts.get(name, NOTHING), corrected.get(name)
        verdict: Verdict = (
            "reference" if name == REFERENCE
            else "not comparable" if reference is None
            else verdict_of(metric, difference, p_holm)
        )  # fmt: skip
        sentence = sentence_of(name, verdict, metric, difference, p_holm)
        why = why_no_interval(figure, max((one.units for one in found), default=0))
        rows.append(
            FigureRow(
                figure=figure.name,
                unit=figure.unit,
                better=figure.better,
                family=family,
                resampled=figure.resampled,
                strategy=name,
                before=_mean([figure(clients) for clients in tables["before"][name]]),
                after=_mean([one.value for one in found]),
                after_ci95=figure_interval(found, least=figure.least),
                difference=statistics.finite(difference.mean),
                difference_ci95=difference.interval,
                p_units=difference.p_clients,
                p_seeds=difference.p_seeds,
                p_holm=p_holm,
                verdict=None if figure.better == "neither" else verdict,
                sentence=f"{sentence} No interval: {why}." if why else sentence,
            )
        )
    return rows


def _contrast(differences: Sequence[Resampled]) -> Contrast:
    """Return the statistics of a figure's paired differences, one for each seed."""
    defined = [one for one in differences if not math.isnan(one.value)]
    return Contrast(
        mean=float(np.mean([one.value for one in defined])) if defined else None,
        interval=figure_interval(defined),
        p_clients=within_p_value(defined),
        p_seeds=statistics.seeds_p_value([[one.value] for one in defined]),
        seeds=len(differences),
        clients=max((one.units for one in defined), default=0),
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.finite(statistics.mean_over_seeds([[value] for value in values]))
