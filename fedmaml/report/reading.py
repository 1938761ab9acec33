"""Run directories as data for a report."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fedmaml.comparison.conclusions import (
    Comparison,
    conclude,
    configuration,
    group,
    in_order,
)
from fedmaml.comparison.verdicts import Metric, Row
from fedmaml.core.errors import NotComparableError, RunDirectoryError
from fedmaml.runs.completeness import complete_summary
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.finding import runs_below
from fedmaml.runs.outcome import has_diverged

logger = logging.getLogger("fedmaml")


@dataclass(frozen=True)
class Run:
    """One complete run.

    Attributes:
        path: Its directory.
        table: Its configuration.
        summary: Content of ``summary.json``.
        rounds: Content of ``rounds.jsonl``, one mapping per round.
        clients: Content of ``clients.jsonl``, one mapping per evaluated client.
        references: Content of ``references.json``, one mapping per reference.
        diverged: Whether training diverged in every round; then nothing here is a result.
    """

    path: Path
    table: Mapping[str, Any]
    summary: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    clients: Sequence[Mapping[str, Any]]
    references: Sequence[Mapping[str, Any]] = ()
    diverged: bool = False

    @property
    def own_clients(self) -> tuple[Mapping[str, Any], ...]:
        """The clients that the headline is about: those of no further family."""
        return tuple(row for row in self.clients if not row.get("family"))


@dataclass(frozen=True)
class Material:
    """The input of a report.

    Attributes:
        scenario: Name of the scenario that all runs share.
        metric: The headline metric.
        runs: Name of a line -> its runs: a strategy and its seeds where these identify the runs,
            else every run by itself.
        comparison: The comparison; None if the runs cannot be compared.
        why_not: The reason, if there is no comparison.
    """

    scenario: str
    metric: Metric
    runs: Mapping[str, tuple[Run, ...]]
    comparison: Comparison | None
    why_not: str

    @property
    def evaluated(self) -> str:
        """Whose clients the figures are of: "test", "validation"; "evaluated" where runs differ."""
        splits = {
            str(run.summary["evaluated_split"]) for runs in self.runs.values() for run in runs
        }
        return splits.pop() if len(splits) == 1 else "evaluated"


def read(directories: Sequence[Path], comparison: Comparison | None = None) -> Material:
    """Read everything that run directories, or folders of them, hold.

    Args:
        directories: Run directories, or folders of them.
        comparison: Their comparison, if it is known already.

    Raises:
        RunDirectoryError: If one holds no run, or a run that was cut short.
        NotComparableError: If the runs are of several scenarios.
    """
    paths = [path for directory in directories for path in find_runs(directory)]
    paths = list({path.resolve(): path for path in paths}.values())
    written = _written_comparison(directories) if comparison is None else None
    if written is not None:  # the folder may hold runs of earlier comparisons, too
        paths = [path for path in paths if _is_of(written, path)] or paths
    scenarios: dict[str, Path] = {}
    for path in paths:
        scenarios.setdefault(str(configuration(path)["scenario"]), path)
    if len(scenarios) > 1:
        found = ", ".join(f"{path} holds {scenario}" for scenario, path in scenarios.items())
        raise NotComparableError(
            f"the runs are of {len(scenarios)} scenarios ({found}): a report is about one; make "
            "one report for each"
        )
    runs = [_run(path) for path in paths]
    first = runs[0].summary["metric"]
    if comparison is None:
        comparison, why_not = _comparison(paths)
        if comparison and written and _by_name(written) == _by_name(comparison):
            comparison = written
    else:
        why_not = ""
    return Material(
        scenario=next(iter(scenarios)),
        metric=Metric(first["name"], first["unit"], first["better"]),
        runs=_lines(runs),
        comparison=comparison,
        why_not=why_not,
    )


def find_runs(directory: Path) -> list[Path]:
    """Return the run directories in a folder: itself, or those up to two levels below.

    Raises:
        RunDirectoryError: If there are none.
    """
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise RunDirectoryError(f"{directory} {what}; give run directories, or a folder of them")
    if (directory / "config.toml").exists():
        return [directory]
    if found := runs_below(directory):
        return found
    what = "holds no run (no config.toml in it, nor in folders up to two levels below)"
    if not any(directory.iterdir()):
        what = "is empty"
    raise RunDirectoryError(
        f"{directory} {what}; runs are made by `fedmaml run SCENARIO --out DIR` and `fedmaml "
        "compare SCENARIO --out DIR`"
    )


def _run(path: Path) -> Run:
    directory = RunDirectory(path)
    summary = complete_summary(directory)
    table, rounds, clients = configuration(path), directory.rounds(), directory.clients()
    references = directory.references()
    if not has_diverged(directory):
        return Run(path, table, summary, rounds, clients, references)
    lost = [_diverged(row) for row in clients]
    rounds = [{**record, "evaluation": {}} for record in rounds]
    return Run(path, table, _without_values(summary), rounds, lost, references, diverged=True)


def _without_values(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a run that diverged without values: its model is the initial one."""
    kept = ("name", "unit", "better")
    lost = {"before": None, "after": None, "ci95": None, "ci95_before": None}
    headline, *others = (
        {key: metric[key] for key in kept} | lost
        for metric in (summary["metric"], *summary["metrics"])
    )
    figures = [{**figure, **lost} for figure in summary["figures"]]
    return {**summary, "metric": headline, "metrics": others, "figures": figures}


def _diverged(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: "diverged" if ":" in key else value for key, value in row.items()}


def _comparison(paths: Sequence[Path]) -> tuple[Comparison | None, str]:
    if len(paths) == 1:
        return None, (
            "This is a single run, so there is nothing to compare it with; the command fedmaml "
            "compare compares strategies with fine-tuned FedAvg over several seeds."
        )
    try:
        found = group(paths)
        if list(found) == ["fedavg"]:
            return None, "All runs are of fedavg, so there is nothing to compare them with."
        return conclude(found), ""
    except NotComparableError as error:
        return None, f"These runs are shown beside each other, but not compared: {error}."


def _written_comparison(directories: Sequence[Path]) -> Comparison | None:
    """Return the comparison that `fedmaml compare` wrote to a folder, with tuning and budget."""
    path = directories[0] / "comparison.json"
    if len(directories) > 1 or not path.is_file():
        return None
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        table.pop("reference", None)
        written: Comparison = TypeAdapter(Comparison).validate_python(table)
    except (OSError, ValueError, AttributeError) as error:  # the runs themselves are enough
        logger.warning("%s cannot be read, and is left out: %s", path, error)
        return None
    return written


def _is_of(made: Comparison, path: Path) -> bool:
    """Return whether a run is one of those that were compared."""
    table = configuration(path)
    return str(table["strategy"]) in made.settings and int(table["seed"]) < made.seeds


def _by_name(made: Comparison) -> dict[str, Row]:
    """Return the rows of a comparison, whatever their order."""
    return {row.strategy: row for row in made.rows}


def _lines(runs: Iterable[Run]) -> dict[str, tuple[Run, ...]]:
    """Put the seeds of a strategy together; name every run by itself where settings differ."""
    runs = list(runs)
    by_strategy: dict[str, list[Run]] = {}
    for run in runs:
        by_strategy.setdefault(str(run.table["strategy"]), []).append(run)
    lines: dict[str, tuple[Run, ...]] = {}
    for name in in_order(by_strategy):
        members = sorted(by_strategy[name], key=lambda run: int(run.table["seed"]))
        settings = [{**run.table, "seed": 0, "data_dir": ""} for run in members]
        if all(one == settings[0] for one in settings) and len(members) == len(
            {run.table["seed"] for run in members}
        ):
            lines[name] = tuple(members)
        else:
            lines |= {
                f"{name} · {short}": (run,)
                for short, run in zip(_short([run.path for run in members]), members, strict=True)
            }
    return lines


def _short(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that are all different."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
