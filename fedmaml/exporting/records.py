"""A run directory as settings and points: a round, a time, and numbers by name."""

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedmaml.config import Flat, flatten_table
from fedmaml.core.errors import ConfigurationError, RunDirectoryError
from fedmaml.runs.completeness import complete_summary, ending
from fedmaml.runs.directory import RunDirectory

_POLL_SECONDS = 0.5


class Point(NamedTuple):
    """Numbers of one moment.

    Attributes:
        round: From 1; the last round for the evaluation of the test clients.
        seconds: Since the epoch; rounds follow each other by their measured seconds.
        values: Name -> number, NaN where it is not finite.
    """

    round: int
    seconds: float
    values: dict[str, float]


@dataclass(frozen=True)
class Recorded:
    """The part of a run that viewers show.

    Attributes:
        path: The run directory.
        settings: Its configuration by dotted key.
        started: Seconds since the epoch.
        points: One for each round, then one for the evaluation; read once.
        poll: Whether points come while the run goes on.
    """

    path: Path
    settings: Flat
    started: float
    points: Iterator[Point]
    poll: bool = False

    def outcome(self) -> str:
        """Return "finished", "failed" or "cut short"."""
        return ending(RunDirectory(self.path))


def recorded(path: Path) -> Recorded:
    """Read the current contents of a run directory.

    Raises:
        RunDirectoryError: If it holds no run or nothing to show, or if it is damaged.
    """
    run = _opened(path)
    directory = RunDirectory(path)
    finished = directory.summary() is not None
    summary = complete_summary(directory) if finished else None
    records = directory.rounds()
    if not records and not finished:
        raise RunDirectoryError(
            f"{path} has no finished round yet; wait for one, or use --follow while it runs"
        )
    return Recorded(path, run.settings, run.started, _points(records, run.started, summary))


def followed(path: Path) -> Recorded:
    """Read a run directory while the run goes on, until it is finished or has failed.

    Raises:
        RunDirectoryError: If it holds no run.
    """
    run = _opened(path)

    def records() -> Iterator[dict[str, Any]]:
        directory, seen, over = RunDirectory(path), 0, False
        while True:
            new = directory.rounds()[seen:]
            yield from new
            seen += len(new)
            if over:
                return
            over = ending(directory) != "cut short"
            if not over and not new:
                time.sleep(_POLL_SECONDS)

    def points() -> Iterator[Point]:
        last = run.started
        round = 0
        for point in _points(records(), run.started, None):
            round, last = point.round, point.seconds
            yield point
        directory = RunDirectory(path)
        if ending(directory) == "finished":
            yield Point(round, last, _evaluation(complete_summary(directory)))

    return Recorded(path, run.settings, run.started, points(), poll=True)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a name for each run: its path below the folder that they have in common.

    Raises:
        ConfigurationError: If a run is named twice.
    """
    resolved = [path.resolve() for path in paths]
    if twice := [path for path in resolved if resolved.count(path) > 1]:
        raise ConfigurationError(f"{twice[0]} is named twice; name every run directory once")
    if len(resolved) == 1:
        return [resolved[0].name]
    common = resolved[0].parent
    while not all(path.is_relative_to(common) and path != common for path in resolved):
        common = common.parent
    return [path.relative_to(common).as_posix() for path in resolved]


def _opened(path: Path) -> Recorded:
    settings = flatten_table(RunDirectory(path).config_table())
    started = (path / "config.toml").stat().st_mtime
    return Recorded(path, settings, started, iter(()))


def _points(
    records: Iterable[Mapping[str, Any]], started: float, summary: Mapping[str, Any] | None
) -> Iterator[Point]:
    seconds, round = started, 0
    for record in records:
        seconds += record["seconds"]
        round = record["round"]
        yield Point(round, seconds, _values(record))
    if summary is not None:
        yield Point(round, seconds, _evaluation(summary))


def _values(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a round's record; viewers group names by their first part."""
    values = {f"train/{name}": value for name, value in record["metrics"].items()}
    for name, value in record.get("evaluation", {}).items():
        values[f"validation/{name.replace(':', '/')}"] = value
    values["clients/asked"] = record["cohort"]
    values["clients/used"] = record["clients"]
    values["clients/left_out"] = sum(len(entry["clients"]) for entry in record["rejected"])
    values["seconds/round"] = record["seconds"]
    cost = dict(record["cost"])
    for name, units in cost.pop("counters", {}).items():
        values |= {f"cost/{name}/{part}": count for part, count in units.items()}
    for name, value in cost.items():
        values[f"cost/{name}"] = value
    return {name: _number(value) for name, value in values.items()}


def _evaluation(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the test clients' means before and after adaptation, and the interval."""
    values = {}
    for metric in (summary["metric"], *summary["metrics"], *map(_named, summary["figures"])):
        stages = {"before": metric["before"], "after": metric["after"]}
        stages |= {
            f"after_{steps}_steps": at["mean"] for steps, at in metric.get("at_steps", {}).items()
        }
        stages |= {
            f"after_{shots}_shots": at["mean"] for shots, at in metric.get("at_shots", {}).items()
        }
        if interval := metric["ci95"]:
            stages |= {"after_ci95_low": interval[0], "after_ci95_high": interval[1]}
        for stage, value in stages.items():
            if value is not None:
                values[f"test/{metric['name']}/{stage}"] = _number(value)
    return values


def _named(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Return a figure under a name that every viewer takes."""
    name = f"{figure['name']} {figure['family']}".strip()
    return {**figure, "name": "figures/" + re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
