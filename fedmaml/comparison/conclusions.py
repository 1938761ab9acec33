"""Conclusions from complete runs of one scenario, whichever command made them.

    group     run directories -> strategy -> seed -> directory
    conclude  these -> differences to fine-tuned FedAvg, and their `verdicts`

Strategies are compared after the last round or, where runs record so (``selected_by``), after the
round that the validation clients selected; no round is selected by its test result.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmaml.comparison import diverging
from fedmaml.comparison.contrasts import Values
from fedmaml.comparison.diverging import Runs
from fedmaml.comparison.figures import FigureRow, conclude_figures
from fedmaml.comparison.findings import TrainingCost, Tuned, training_cost_of
from fedmaml.comparison.headline import headline
from fedmaml.comparison.names import display
from fedmaml.comparison.references import ReferenceRow, reference_rows
from fedmaml.comparison.verdicts import REFERENCE, Metric, Pair, Row
from fedmaml.config import Flat, add_own, flatten_table, known_keys
from fedmaml.core import statistics
from fedmaml.core.errors import NotComparableError, RunDirectoryError
from fedmaml.runs.completeness import complete_summary
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.references import values_of
from fedmaml.strategies import CATALOGUE as STRATEGIES

ALWAYS = ("local", REFERENCE, "fedadam")
"""The baselines of every comparison."""

_MAY_DIFFER = {"seed", "data_dir", "backend", "nodes", "engine", "client_batch", "workers",
               "device", "timeout"}  # fmt: skip
"""Settings that may differ between the seeds of a strategy."""
_MANY_SEEDS = 5  # from here on Student's factor is below 3


def is_baseline(strategy: str) -> bool:
    """Return whether a strategy of the catalogue is a baseline, which meta-learning must beat."""
    return STRATEGIES[strategy].facts.baseline


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison; `fedmaml.comparison.tables` and `fedmaml.report` show it.

    Attributes:
        scenario: Name of the scenario.
        metric: The headline metric.
        seeds: Number of seeds.
        clients: Test clients per seed.
        headline: The answer in one line.
        rows: One per strategy, the baselines first.
        notes: What limits the answer.
        settings: Strategy -> all its settings by dotted key, those of the scenario included.
        took: Strategy -> cost of its training.
        pairs: Every two strategies other than the reference.
        equal: What all strategies got alike, see `budget`; "" if unknown.
        tuning: Strategy -> result of tuning; empty if nothing was tuned.
        command: The command that repeats it; "" if unknown.
        references: Predictors that no gradient trains, and every strategy compared with them.
        figures: Further metrics and figures of every strategy, figure by figure.
    """

    scenario: str
    metric: Metric
    seeds: int
    clients: int
    headline: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    settings: dict[str, Flat]
    took: dict[str, TrainingCost] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    equal: str = ""
    tuning: dict[str, Tuned] = field(default_factory=dict)
    command: str = ""
    references: tuple[ReferenceRow, ...] = ()
    figures: tuple[FigureRow, ...] = ()


# --- read -------------------------------------------------------------------------------------


def group(paths: Iterable[Path]) -> dict[str, dict[int, Path]]:
    """Sort run directories by strategy, the baselines first, and seed.

    Raises:
        RunDirectoryError: If one of them holds no run.
        NotComparableError: If two hold the same strategy and seed.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in paths:
        table = configuration(path)
        seeds = found.setdefault(table["strategy"], {})
        if other := seeds.get(table["seed"]):
            raise NotComparableError(
                f"{other} and {path} both hold {table['strategy']}, seed {table['seed']}: a "
                "comparison takes one run per strategy and seed; leave one out"
            )
        seeds[table["seed"]] = path
    return {name: dict(sorted(found[name].items())) for name in in_order(found)}


def in_order(strategies: Iterable[str]) -> list[str]:
    """Return names of strategies as they are shown: the baselines, then the others by name."""
    first = {name: place for place, name in enumerate(ALWAYS)}
    return sorted(strategies, key=lambda name: (first.get(name, len(first)), name))


def configuration(path: Path) -> dict[str, Any]:
    """Return the configuration of a run as nested plain values.

    Raises:
        RunDirectoryError: If the folder holds no run of a known scenario and strategy.
        ConfigurationError: If it is in a file that is gone, or cannot be imported.
    """
    table = RunDirectory(path).config_table()
    add_own(
        table["scenario"], table.get("scenario_from", ""),
        table["strategy"], table.get("strategy_from", ""),
    )  # fmt: skip
    try:
        known_keys(table["scenario"], table["strategy"])
    except KeyError as error:
        raise RunDirectoryError(
            f"{path / 'config.toml'} is not the configuration of a run of this fedmaml: it knows "
            f"no scenario or strategy {error}"
        ) from error
    return table


# --- conclude ----------------------------------------------------------------------------------


def conclude(runs: Runs) -> Comparison:
    """Evaluate complete runs against those of fine-tuned FedAvg.

    Args:
        runs: The strategies in the order of the table, each with the same seeds.

    Raises:
        RunDirectoryError: If a run is not complete.
        NotComparableError: If strategies lack seeds that others have, or runs differ in scenario
            or task, or the reference is not there, or all that train diverged.
    """
    tables = {
        name: [configuration(path) for path in seeds.values()] for name, seeds in runs.items()
    }
    _check_comparable(runs, tables)
    summaries = {
        path: complete_summary(RunDirectory(path))
        for seeds in runs.values()
        for path in seeds.values()
    }
    first = summaries[next(iter(runs[REFERENCE].values()))]
    metric = Metric(*(first["metric"][key] for key in ("name", "unit", "better")))
    before, after = (
        {
            name: [
                values_of(RunDirectory(path).clients(), f"{metric.name}:{stage}")
                for path in seeds.values()
            ]
            for name, seeds in runs.items()
        }
        for stage in ("before", "after")
    )
    rounds = {name: int(seeds[0]["rounds"]) for name, seeds in tables.items()}
    lost = diverging.found(runs, tables, after)
    rows = diverging.rows(metric, rounds, before, after, lost)
    pairs = diverging.pairs(metric, after, lost)
    references = reference_rows(metric, runs, after, lost)
    baselines = [name for name in runs if is_baseline(name)]
    took = {
        name: training_cost_of([summaries[path] for path in seeds.values()])
        for name, seeds in runs.items()
    }
    figures = conclude_figures(runs, tables[REFERENCE][0], lost)
    return Comparison(
        scenario=first["scenario"],
        metric=metric,
        seeds=len(runs[REFERENCE]),
        clients=int(first["clients_test"]),
        headline=headline(metric, rows, pairs, references, baselines),
        rows=rows,
        notes=(
            _evaluation_note(tables),
            *_notes(len(runs[REFERENCE]), _ask_again(first["scenario"], runs)),
            *_missing(after),
            *_figure_notes(figures),
        ),
        settings={name: _settings(seeds[0]) for name, seeds in tables.items()},
        took=took,
        pairs=pairs,
        references=references,
        figures=figures,
    )


def _check_comparable(runs: Runs, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    if REFERENCE not in runs:
        raise NotComparableError(
            f"there is no run of {REFERENCE}, with which every strategy is compared; there are "
            f"{', '.join(runs)}; the command fedmaml compare always runs it"
        )
    wanted = list(runs[REFERENCE])
    one = tables[REFERENCE][0]
    for name, seeds in runs.items():
        if list(seeds) != wanted:
            raise NotComparableError(
                f"{name} has {_listed(seeds)}, {REFERENCE} has {_listed(wanted)}: differences are "
                "paired by seed; give runs of the same seeds"
            )
        for path, table in zip(seeds.values(), tables[name], strict=True):
            reason = _difference(table, one, ("scenario", "task"))
            if reason:
                raise NotComparableError(
                    f"{path} and {runs[REFERENCE][wanted[0]]} hold different problems ({reason}): "
                    "only runs of the same task can be compared"
                )
            if table.get("evaluation", {}).get("split", "test") != "test":
                raise NotComparableError(
                    f"{path} was evaluated on validation clients (evaluation.split), as trials of "
                    "tuning are: comparisons are on test clients; leave it out"
                )
            reason = _difference(table, tables[name][0], table.keys() - _MAY_DIFFER)
            if reason:
                raise NotComparableError(
                    f"{path} and {seeds[wanted[0]]} are runs of {name} with different settings "
                    f"({reason}): a comparison takes one setting per strategy"
                )


def _difference(one: Mapping[str, Any], other: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return the first setting in which two runs differ; "" if they do not."""
    left, right = (
        flatten_table({key: table[key] for key in sorted(keys) if key in table})
        for table in (one, other)
    )
    for key in (*left, *right):
        if left.get(key) != right.get(key):
            return f"{key} = {left.get(key)!r} and {right.get(key)!r}"
    return ""


def _listed(seeds: Iterable[int]) -> str:
    numbers = list(seeds)
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _settings(table: Mapping[str, Any]) -> Flat:
    """Return a run's settings in the order in which configuration and strategy declare them.

    TOML writes scalars before tables, so the file has another order.
    """
    known = known_keys(table["scenario"], table["strategy"])
    sections = dict.fromkeys(key.partition(".")[0] for key in known)
    ordered = {key: table[key] for key in sections if key in table} | dict(table)
    flat = flatten_table(ordered)
    return {key: flat[key] for key in flat if key not in ("strategy", "seed", "data_dir")}


def _notes(seeds: int, ask_again: str) -> tuple[str, ...]:
    notes = [
        "Differences are paired by seed and test client. Intervals: hierarchical bootstrap over "
        "seeds and clients, calibrated by Student's t over seeds, and never narrower than the "
        "clients within seeds imply; they are not corrected. p: the larger of a t-test over seeds "
        "and Wilcoxon's signed-rank test over clients, Holm-corrected in two families: "
        f"strategies compared with {display(REFERENCE)}, and pairs of the others. Verdicts use it.",
    ]
    if seeds == 1:
        notes.append(
            "One seed: intervals are about this one training run and its test clients; they do not "
            f"say what another seed would give, and no test can. To ask with five: {ask_again}"
        )
    elif seeds < _MANY_SEEDS:
        factor = statistics.student_factor(seeds)
        notes.append(
            f"{seeds} seeds are few: intervals reach up to {factor:.1f} standard errors, with "
            f"{_MANY_SEEDS} seeds {statistics.student_factor(_MANY_SEEDS):.1f}. What is not "
            "distinguishable here may be with more seeds."
        )
    return tuple(notes)


def _figure_notes(figures: Sequence[FigureRow]) -> list[str]:
    if not figures:
        return []
    labels = dict.fromkeys(row.resampled for row in figures if row.resampled != "client")
    what = "clients" + "".join(f", or {label!r} as a whole," for label in labels)
    return [
        "Further metrics and figures are computed for each run and averaged over seeds; intervals "
        f"and tests resample {what} within seeds. Each figure is tested alone: its p is "
        "corrected for the number of strategies, not for the number of figures."
    ]


def _ask_again(scenario: str, strategies: Iterable[str]) -> str:
    """Return the command that compares the same strategies over five seeds."""
    names = [name for name in strategies if name not in ALWAYS] or list(ALWAYS)
    return f"fedmaml compare {scenario} --strategies {','.join(names)} --seeds {_MANY_SEEDS}"


def _evaluation_note(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return after which round strategies were evaluated, except those without rounds."""
    chosen = {
        name: seeds[0].get("evaluation", {}).get("select", "last")
        for name, seeds in tables.items()
        if seeds[0]["rounds"]
    }
    best = [name for name, how in chosen.items() if how == "best"]
    if not best:
        return "Evaluated after the last round; no round was chosen."
    every = sorted({tables[name][0]["evaluation"]["every"] for name in best})
    text = (
        "Evaluated after the round that was best on the validation clients, which were evaluated "
        f"after {_every(every)} and after the last; no test client influenced the choice."
    )
    if others := [name for name in chosen if name not in best]:
        text += f" But {', '.join(map(display, others))}: after the last round."
    return text


def _every(numbers: Sequence[int]) -> str:
    if numbers == [1]:
        return "every round"
    return f"every {' to '.join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))} rounds"


def _missing(after: Mapping[str, Values]) -> list[str]:
    """Name the strategies whose pairs are incomplete, because a client could not be evaluated."""
    notes = []
    for name, values in after.items():
        pairs = zip(values, after[REFERENCE], strict=True)
        if lost := sum(len(one.keys() ^ other.keys()) for one, other in pairs):
            notes.append(
                f"{display(name)}: {lost} test clients were evaluated only there or only in FedAvg."
            )
    return notes
