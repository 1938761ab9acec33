"""Many runs, in this process, summarised over seeds."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmaml.comparison.reuse import is_complete, make_complete
from fedmaml.config import RunConfig, load_toml, resolve
from fedmaml.core.statistics import bootstrap_interval
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


def finished_run(config: RunConfig, out: Path) -> RunDirectory:
    """Return a run, which is made, or gone on with, unless it has ended."""
    if not is_complete(config, out, force=False):
        make_complete(config, out)
    return RunDirectory(out)


def finished_experiment(name: str, folder: Path, seed: int = 0) -> RunDirectory:
    """Return the run of a file of experiments/ in a folder of runs, see `finished_run`."""
    config = resolve(load_toml(EXPERIMENTS / f"{name}.toml"), {"seed": seed} if seed else {})
    return finished_run(config, folder / (f"{name}-seed-{seed}" if seed else name))


def run_clients(settings: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run once; return the summary and the rows of the test clients."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = execute(resolve(settings), out)
        rows = RunDirectory(out).clients()
    return summary, rows


def column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Return one metric of all clients; undefined values are NaN, diverged ones infinite."""
    values = [row.get(name) for row in rows]
    return np.array(
        [np.nan if v is None else np.inf if v == "diverged" else v for v in values], dtype=float
    )


def mean_and_interval(values: np.ndarray) -> dict[str, float]:
    """Return the mean and, where there is one, its 95 % interval over the values."""
    interval = bootstrap_interval(list(values))
    mean = {"mean": float(np.nanmean(values))}
    return mean | dict(zip(("low", "high"), interval, strict=True)) if interval else mean
