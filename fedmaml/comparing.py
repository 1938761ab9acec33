"""Strategies next to each other: the same clients, the same seeds, and what may be concluded.

    plan       settings -> one configuration per strategy and seed      checked before anything runs
    run_all    configurations -> run directories DIR/<strategy>/seed<k>  complete ones are reused
    read       run directories -> one value per strategy, seed and test client
    judge      values -> differences to fine-tuned FedAvg, intervals, tests, sentences

What is compared is the state after the last round; no round is chosen by its test result, and
the validation clients choose nothing either. The p-value of a strategy is the larger of two: the
seeds' (would training again give the same answer?) and the clients' (is it more than a few of
them?). Both must be convinced, at 5 % after Holm's correction, and the interval must leave out 0.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tomli_w
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedmaml.config import Flat, RunConfig, flatten_table, known_keys, nearest, resolve
from fedmaml.core import statistics
from fedmaml.core.errors import BackendError, ConfigurationError, FedmamlError, RunDirectoryError
from fedmaml.running import execute, preflight
from fedmaml.server.run_directory import RunDirectory

REFERENCE = "fedavg"
ALWAYS = ("local", REFERENCE)
NOT_META = (*ALWAYS, "fedprox", "fedrep")
"""Strategies that nobody would call meta-learning."""

_SIGNIFICANT = 0.05
_MANY_SEEDS = 5  # from here on Student's factor is below 3
_OWN_KEYS = {"scenario": "as the argument", "strategy": "with --strategies", "seed": "with --seeds"}

Plan = dict[str, list[RunConfig]]
"""Strategy -> its configuration for every seed."""

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


@dataclass(frozen=True)
class Comparison:
    """All there is to say; `fedmaml.comparison_tables` shows it.

    Attributes:
        scenario: Name of the scenario.
        metric: What was measured.
        seeds: How many; they are 0, 1, ...
        clients: Test clients per seed.
        headline: The answer in one line.
        rows: One per strategy, the baselines first.
        notes: What limits the answer.
        settings: Strategy -> all its settings by dotted key, those of the scenario included.
    """

    scenario: str
    metric: Metric
    seeds: int
    clients: int
    headline: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    settings: dict[str, Flat]


# --- plan -------------------------------------------------------------------------------------


def plan(
    scenario: str, strategies: Sequence[str], seeds: int, layers: Sequence[Flat], rounds: int | None
) -> Plan:
    """Return what to run: every strategy with its recipe and the common settings that it knows.

    Args:
        scenario: Name in the catalogue.
        strategies: Names in the catalogue; `ALWAYS` are added.
        seeds: How many; they are 0, 1, ...
        layers: Common settings, later ones winning.
        rounds: Rounds of training for all but "local", which has none; None: as in the recipes.

    Raises:
        ConfigurationError: Names what is wrong, what is allowed and the nearest right word.
    """
    if seeds < 1:
        raise ConfigurationError(
            f"seeds = {seeds}: allowed: 1 or more; 5 are enough for most scenarios"
        )
    names = list(dict.fromkeys([*ALWAYS, *strategies]))
    given: Flat = {key: value for layer in layers for key, value in layer.items()}
    for key, how in _OWN_KEYS.items():
        if key in given:
            raise ConfigurationError(
                f"{key} = {given[key]!r}: a comparison takes the {key} {how}; remove the setting"
            )
    for name in names:
        resolve({"scenario": scenario, "strategy": name})  # a wrong name is told as such
    known = {name: known_keys(scenario, name) for name in names}
    everything = list(dict.fromkeys(key for keys in known.values() for key in keys))
    for key in given:
        if key not in everything:
            raise ConfigurationError(
                f"unknown key {key!r}: neither scenario {scenario!r} nor any of "
                f"{', '.join(names)} has it{nearest(key, everything)}; "
                f"known: {', '.join(key for key in everything if key not in _OWN_KEYS)}"
            )
    planned: Plan = {}
    for name in names:
        own = {key: value for key, value in given.items() if key in known[name]}
        if name == "local":
            own["rounds"] = 0  # its rounds would change nothing
        elif rounds is not None:
            own["rounds"] = rounds
        main = {"scenario": scenario, "strategy": name}
        planned[name] = [resolve(own, main, {"seed": seed}) for seed in range(seeds)]
    for name in names:
        if planned[name][0].task != planned[REFERENCE][0].task:
            raise ConfigurationError(
                f"the recipes of {name!r} and {REFERENCE!r} on {scenario!r} set different tasks, "
                "so that they cannot be compared; set the task.* keys that differ with --set"
            )
    return planned


# --- run --------------------------------------------------------------------------------------


def run_all(planned: Plan, out: Path, *, force: bool = False, progress: bool = False) -> None:
    """Run what is not complete yet.

    Args:
        planned: What to run.
        out: Holds one run directory per strategy and seed.
        force: Run again what is there with other settings, instead of refusing.
        progress: Show a progress bar on standard error.

    Raises:
        RunDirectoryError: If ``out`` holds other runs (and not ``force``); nothing was changed.
        FedmamlError: If a run cannot be done.
        KeyboardInterrupt: After Ctrl-C; the same command goes on where it was interrupted.
    """
    if (out / "config.toml").exists():
        raise RunDirectoryError(
            f"{out} is the directory of a single run: choose another folder with --out"
        )
    everything = [config for configs in planned.values() for config in configs]
    missing = [config for config in everything if not _complete(config, out, force)]
    if folder := os.environ.get("FEDMAML_DATA"):
        os.environ["FEDMAML_DATA"] = str(Path(folder).absolute())
    for strategy in dict.fromkeys(config.strategy for config in missing):
        preflight(planned[strategy][0])
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not progress,
    )
    with bar:
        task = bar.add_task("", total=len(everything), completed=len(everything) - len(missing))
        for config in missing:
            label = f"{config.strategy}, seed {config.seed}"
            bar.update(task, description=label)
            try:
                execute(config, run_path(config, out), force=True)
            except FedmamlError as error:
                raise BackendError(f"{label}: {error}") from error
            bar.advance(task)
        bar.update(task, description="all runs complete")


def run_path(config: RunConfig, out: Path) -> Path:
    """Return the run directory of one run of a comparison."""
    return out / config.strategy / f"seed{config.seed}"


def _complete(config: RunConfig, out: Path, force: bool) -> bool:
    """Return whether this very run is there already, complete."""
    directory = RunDirectory(run_path(config, out))
    if not (directory.path / "config.toml").exists():
        return False
    wanted = flatten_table(tomllib.loads(tomli_w.dumps(config.to_table())))
    try:
        there = flatten_table(directory.config_table())
    except RunDirectoryError:
        if force:
            return False
        raise
    if there == wanted:
        return _finished(directory)
    if force:
        return False
    key = next(key for key in (*wanted, *there) if there.get(key) != wanted.get(key))
    raise RunDirectoryError(
        f"{directory.path} holds a run with other settings ({key} = {there.get(key)!r}, now "
        f"{wanted.get(key)!r}): choose another folder with --out, or run it again with --force"
    )


def _finished(directory: RunDirectory) -> bool:
    """Return whether nothing of a run's outcome is missing; what is cut short is run again."""
    try:
        summary = directory.summary()
    except RunDirectoryError:
        return False
    return summary is not None and len(directory.clients()) == summary["clients_test"]


# --- read -------------------------------------------------------------------------------------


def compare(planned: Plan, out: Path) -> Comparison:
    """Read the complete runs of a comparison and judge them."""
    first = planned[REFERENCE][0]
    summary = RunDirectory(run_path(first, out)).summary()
    assert summary is not None, "run_all makes every run complete"
    metric = Metric(*(summary["metric"][key] for key in ("name", "unit", "better")))
    before, after = (
        {
            name: [_read(config, out, f"{metric.name}:{stage}") for config in configs]
            for name, configs in planned.items()
        }
        for stage in ("before", "after")
    )
    rounds = {name: configs[0].rounds for name, configs in planned.items()}
    rows = judge(metric, rounds, before, after)
    return Comparison(
        scenario=first.scenario,
        metric=metric,
        seeds=len(planned[REFERENCE]),
        clients=int(summary["clients_test"]),
        headline=_headline(rows),
        rows=rows,
        notes=(*_notes(len(planned[REFERENCE])), *_missing(after)),
        settings={name: _settings(configs[0]) for name, configs in planned.items()},
    )


def _read(config: RunConfig, out: Path, column: str) -> dict[int, float]:
    values: dict[int, float] = {}
    for row in RunDirectory(run_path(config, out)).clients():
        value = row.get(column)
        lost = np.nan if value is None else np.inf  # "diverged"
        values[int(row["client"])] = float(value) if isinstance(value, int | float) else lost
    return values


def _settings(config: RunConfig) -> Flat:
    flat = flatten_table(config.to_table())
    return {key: flat[key] for key in flat if key not in ("strategy", "seed", "data_dir")}


# --- judge ------------------------------------------------------------------------------------


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


def _headline(rows: Sequence[Row]) -> str:
    meta = [row for row in rows if row.strategy not in NOT_META]
    better = [row.strategy for row in meta if row.verdict == "better"]
    if not meta:
        return "No meta-learning strategy was compared with fine-tuned FedAvg."
    if not better:
        return "No meta-learning strategy is significantly better than fine-tuned FedAvg."
    return f"Significantly better than fine-tuned FedAvg: {', '.join(better)}."


def _notes(seeds: int) -> tuple[str, ...]:
    notes = [
        "Judged after the last round; no round was chosen.",
        "Differences are paired by seed and test client; intervals: hierarchical bootstrap over "
        "seeds and clients, calibrated by Student's t over seeds; p: the larger of a t-test over "
        "seeds and Wilcoxon's signed-rank test over clients, Holm-corrected for the number of "
        "strategies, as the sentences are; intervals are not.",
    ]
    if seeds == 1:
        notes.append(
            "One seed: intervals and tests are about this one training and these clients; they do "
            "not say what another seed would give. Use 5."
        )
    elif seeds < _MANY_SEEDS:
        factor = statistics.student_factor(seeds)
        notes.append(
            f"{seeds} seeds are few: intervals reach {factor:.1f} standard errors, with "
            f"{_MANY_SEEDS} seeds {statistics.student_factor(_MANY_SEEDS):.1f}. What is not "
            "distinguishable here may be with more seeds."
        )
    return tuple(notes)


def _missing(after: Mapping[str, Values]) -> list[str]:
    """Say whose pairs are incomplete, because a client could not be judged."""
    notes = []
    for name, values in after.items():
        pairs = zip(values, after[REFERENCE], strict=True)
        if lost := sum(len(one.keys() ^ other.keys()) for one, other in pairs):
            notes.append(f"{name}: {lost} test clients were judged only there or only in FedAvg.")
    return notes


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
