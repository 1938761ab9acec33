"""What is kept of the first characters: from runs, by hand."""

import json
from pathlib import Path

import pytest

from benchmarks.forgetting import row_of


def run_with(folder: Path, final: float, then: float, now: float) -> Path:
    folder.mkdir()
    halves = {"name": "halves/first", "after": now, "at_shots": {"75": {"mean": then}}}
    summary = {"format": 3, "metric": {"after": final}, "metrics": [halves]}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_row_is_the_mean_over_seeds(tmp_path: Path) -> None:
    runs = [
        run_with(tmp_path / "seed0", 0.5, 0.8, 0.4),
        run_with(tmp_path / "seed1", 0.7, 0.6, 0.3),
    ]
    assert row_of(runs) == pytest.approx(
        {"final": 0.6, "then": 0.7, "now": 0.35, "forgotten": 0.35, "share": 0.5}
    )


def test_who_knew_nothing_forgets_nothing(tmp_path: Path) -> None:
    assert row_of([run_with(tmp_path / "seed0", 0.1, 0.0, 0.0)])["share"] == 0.0
