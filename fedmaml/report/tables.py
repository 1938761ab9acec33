"""The tables of a report, as text in cells."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedmaml.comparison import cells
from fedmaml.comparison.conclusions import Comparison
from fedmaml.comparison.names import display, metric_name
from fedmaml.comparison.verdicts import REFERENCE, Verdict
from fedmaml.quantities import number, quantity, signed, units_text
from fedmaml.report import series, words
from fedmaml.report.reading import Material, Run
from fedmaml.runs.references import label
from fedmaml.tables.runs import without_most_cells
from fedmaml.tables.table import Table

_REFERENCES = "Predictors that no gradient trains"


def comparison(made: Comparison) -> Table:
    """Return the headline table: one row per strategy, with its verdict."""
    rows = tuple(
        (
            display(row.strategy),
            str(row.rounds),
            number(row.before),
            number(row.after),
            *cells.difference_cells(row),
            _verdict(row.verdict),
        )
        for row in made.rows
    )
    return Table(
        "Means over test clients and seeds, after training",
        ("strategy", "rounds", "before adapting", "after", "minus FedAvg", "95 % interval", "p",
         "verdict"),
        rows,
        (0, 7),
    )  # fmt: skip


def tuning(made: Comparison) -> Table | None:
    """Return the tuned settings and the gain on validation clients; None if nothing was tuned."""
    if not made.tuning:
        return None
    table = cells.tuning(made)
    return replace(table, caption="Tuned on validation clients", text_columns=(0, 1))


def references(material: Material) -> Table | None:
    """Return the differences of strategies, or runs, to references.

    None if the scenario names no references.
    """
    made = material.comparison
    if made is not None:
        table = cells.references(made, "the reference itself", drawn=True)
        caption = f"{_REFERENCES}: strategy minus reference"
        return replace(table, caption=caption) if made.references else None
    rows = []
    for name, runs in material.runs.items():
        for run in runs:
            for reference in run.summary["references"]:
                metric = reference["metrics"][0]
                bounds = None if run.diverged else metric["difference_ci95"]
                difference = "diverged" if run.diverged else signed(metric["difference"])
                rows.append(
                    (
                        words.shown(name),
                        str(run.table["seed"]),
                        label(reference),
                        number(metric["mean"]),
                        difference,
                        cells.interval(bounds, signed),
                    )
                )
    if not rows:
        return None
    header = ("run", "seed", "reference", "its mean", "run minus it", "95 % interval")
    caption = f"{_REFERENCES}: {words.metric_label(material.metric)} at the same clients"
    return Table(caption, header, tuple(rows), (0, 2))


def outcomes(material: Material) -> Table:
    """Return every run's own figures; intervals are over the clients of that run alone."""
    rows = []
    for name, runs in material.runs.items():
        for run in runs:
            metric = run.summary["metric"]
            rows.append(
                (
                    words.shown(name),
                    str(run.table["seed"]),
                    str(run.summary["rounds"]),
                    number(metric["before"]),
                    number(metric["after"]),
                    cells.interval(metric["ci95"], number),
                    str(len(run.own_clients)),
                )
            )
    return Table(
        f"{words.capital(words.metric_label(material.metric))} of each run",
        (
            "run",
            "seed",
            "rounds",
            "before adapting",
            "after",
            "95 % interval",
            f"{material.evaluated} clients",
        ),
        tuple(rows),
    )


def further(material: Material) -> Table | None:
    """Return further metrics and figures, with intervals; None if there are none."""
    if material.comparison is not None:
        return _figures_compared(material.comparison)
    return _figures_of_runs(material)


def _figures_compared(made: Comparison) -> Table | None:
    if not made.figures:
        return None
    rows = tuple(
        (
            _with_unit(row.label, row.unit),
            display(row.strategy),
            number(row.before),
            number(row.after),
            cells.interval(row.after_ci95, number),
            *cells.difference_cells(row),
            "" if row.strategy == REFERENCE or row.verdict is None else _verdict(row.verdict),
        )
        for row in made.figures
    )
    return Table(
        "Further metrics and figures, means over seeds",
        ("figure", "strategy", "before adapting", "after", "95 % interval", "minus FedAvg",
         "95 % interval of the difference", "p", "verdict"),
        rows,
        (0, 1, 8),
    )  # fmt: skip


def _verdict(verdict: Verdict) -> str:
    return f"{cells.SIGNS[verdict].drawn} {verdict}"


def _with_unit(name: str, unit: str) -> str:
    return metric_name(name) + (f" [{unit}]" if unit != "1" else "")


def _figures_of_runs(material: Material) -> Table | None:
    rows = []
    for name, runs in material.runs.items():
        for run in runs:
            metrics, _ = without_most_cells(run.summary["metrics"])
            for figure in (*metrics, *run.summary["figures"]):
                family = f" · {figure['family']}" if figure.get("family") else ""
                rows.append(
                    (
                        _with_unit(figure["name"] + family, figure["unit"]),
                        words.shown(name),
                        str(run.table["seed"]),
                        number(figure["before"]),
                        number(figure["after"]),
                        cells.interval(figure["ci95"], number),
                    )
                )
    if not rows:
        return None
    return Table(
        f"Further metrics and figures over {material.evaluated} clients",
        ("figure", "run", "seed", "before adapting", "after", "95 % interval"),
        tuple(rows),
        (0, 1),
    )


def distribution(material: Material) -> Table:
    """Return the spread over clients of every strategy; dashes where no client has a value."""
    spreads = series.spreads(material)
    rows = []
    for name, runs in material.runs.items():
        spread = spreads.get(name)
        if spread is None:
            evaluated = sum(len(run.own_clients) for run in runs)
            rows.append((words.shown(name), "0", *["–"] * 6, str(evaluated)))
            continue
        shown = (spread.mean, spread.deviation, spread.worst_decile, spread.worst, spread.median,
                 spread.best)  # fmt: skip
        clients = str(len(spread.values))
        rows.append((words.shown(name), clients, *map(number, shown), str(spread.lost)))
    return Table(
        "After adaptation, clients of all seeds together",
        ("strategy", "clients", "mean", "std. deviation", "worst decile", "worst", "median", "best",
         "diverged or undefined"),
        tuple(rows),
    )  # fmt: skip


def cost(material: Material) -> Table:
    """Return the cost of training: per client and round, and in all; means over seeds."""
    rows = []
    for name, runs in material.runs.items():

        def mean(part: str, key: str, runs: Sequence[Run] = runs) -> float | None:
            return _mean([run.summary["cost"][part][key] for run in runs])

        total = [mean("totals", f"payload_bytes_{way}") for way in ("down", "up")]
        rows.append(
            (
                words.shown(name),
                _quantity(mean("per_client_and_round", "payload_bytes_down"), "B"),
                _quantity(mean("per_client_and_round", "payload_bytes_up"), "B"),
                _quantity(mean("per_client_and_round", "flops"), "FLOP"),
                _quantity(mean("per_client_and_round", "peak_bytes"), "B"),
                _quantity(None if None in total else sum(map(float, filter(None, total))), "B"),
                _quantity(mean("totals", "flops"), "FLOP"),
                _quantity(mean("seconds_per_round", "clients"), "s"),
                _quantity(mean("seconds_per_round", "server"), "s"),
                _energy(runs),
            )
        )
    return Table(
        "Training only; the first four columns are of one client in one round",
        ("strategy", "received", "sent", "operations", "memory", "payload, all", "operations, all",
         "clients, s/round", "server, s/round", "energy of a run"),
        tuple(rows),
        (0, 9),
    )  # fmt: skip


def counters(material: Material) -> Table | None:
    """Return the units of examples by the scenario's counters; None if it has none."""
    abouts: dict[str, str] = {}
    for members in material.runs.values():
        for run in members:
            abouts |= run.summary["cost"].get("counters", {})
    if not abouts:
        return None
    columns = [
        (part, of)
        for part in ("per_client_and_round", "totals", "evaluation")
        for of in ("support", "query")
    ]

    def cell(members: Sequence[Run], part: str, name: str, of: str) -> str:
        counted = [run.summary["cost"][part].get("counters", {}).get(name) for run in members]
        mean = _mean([each and each[of] for each in counted])
        return "–" if mean is None else units_text(mean)

    rows = tuple(
        (words.shown(strategy), name, *(cell(members, part, name, of) for part, of in columns))
        for strategy, members in material.runs.items()
        for name in abouts
    )
    units = "; ".join(f"{name}: {about}" for name, about in abouts.items())
    return Table(
        f"What the examples cost, means over seeds ({units})",
        ("strategy", "counter", "support, a client in a round", "query, a client in a round",
         "support, training", "query, training", "support, evaluation", "query, evaluation"),
        rows,
        (0, 1),
    )  # fmt: skip


def runs(material: Material) -> Table:
    """Return where the runs are, and the fingerprints of what they learned."""
    rows = []
    for name, members in material.runs.items():
        for run in members:
            engines = run.summary["engines"]["updates"]
            rows.append(
                (
                    words.shown(name),
                    str(run.table["seed"]),
                    str(run.path),
                    str(run.summary["theta_sha256"])[:16],
                    f"{run.summary['seconds']:.1f} s",
                    ", ".join(engines) or "–",
                )
            )
    return Table(
        "The runs",
        ("strategy", "seed", "directory", "SHA-256 of the parameters", "wall time", "engine"),
        tuple(rows),
        (0, 2, 3, 5),
    )


# --- helpers ----------------------------------------------------------------------------------


def _mean(values: Sequence[Any]) -> float | None:
    """Return the mean; None if one of them is no number."""
    if any(not isinstance(one, int | float) for one in values):
        return None
    return float(np.mean(values))


def _quantity(value: float | None, unit: str) -> str:
    return "–" if value is None else quantity(value, unit)


def _energy(runs: Sequence[Run]) -> str:
    """Return the mean energy of the runs; the words "not measured" unless all were measured."""
    joules = _mean([run.summary["cost"]["energy"]["joules"] for run in runs])
    return "not measured" if joules is None else quantity(joules, "J")
