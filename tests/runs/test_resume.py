"""A run that was killed at any instant goes on to the same bits; real processes, real SIGKILL."""

import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedmaml.runs.chain import NEWEST
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.verifying import verify
from tests.faults.report import RESUME
from tests.killed import PHASES, Forge, outcome

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

SMALL = {
    "scenario": "digits", "rounds": 8, "clients": 5, "nodes": 2, "task.test_clients": 4,
    "task.validation_clients": 3, "evaluation.every": 2, "outer.lr": 0.1, "inner.steps": 1,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "fomaml": SMALL | {
        "strategy": "fomaml", "outer.optimizer": "yogi", "outer.schedule": "cosine",
        "evaluation.select": "best",
    },
    "fedrep, compressed": SMALL | {"strategy": "fedrep", "compression.method": "top-k"},
    "compressed": SMALL | {"strategy": "maml", "compression.method": "top-k"},
}  # fmt: skip
MORE = [name for name in CASES if name != "fedrep, compressed"]


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    made = Forge()
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return the outcome of a case that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")

    @cache
    def of(case: str) -> Any:
        assert forge.run(CASES[case], folder / case) == 0
        return outcome(folder / case)

    return of


def resumed(folder: Path) -> list[int]:
    summary = RunDirectory(folder).summary()
    assert summary is not None
    return summary.get("resumed_after", [])


def interrupted(case: str, forge: Forge, out: Path, **how: Any) -> Any:
    """Kill a run, go on with it, and return its outcome."""
    assert forge.run(CASES[case], out, **how) == -9
    assert RunDirectory(out).summary() is None
    assert forge.run(CASES[case], out, resume=True) == 0
    assert list(out.glob(".*.tmp")) == []
    assert verify(RunDirectory(out))
    return outcome(out)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    "case",
    ["fedrep, compressed", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)],
)
def test_a_run_killed_at_any_phase_ends_in_the_same_bits(
    case: str,
    phase: str,
    forge: Forge,
    whole: Callable[[str], Any],
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    at = {"evaluate": 3, "write": 12, "rename": 9}.get(phase, 5)
    same = interrupted(case, forge, tmp_path / "x", phase=phase, at=at) == whole(case)
    record_property(RESUME, same)
    assert same
    assert resumed(tmp_path / "x")


def test_a_run_that_saved_no_state_yet_begins_anew(
    forge: Forge, whole: Callable[[str], Any], tmp_path: Path
) -> None:
    case = "fedrep, compressed"
    how = {"phase": "aggregate", "at": 4, "every": 1000.0}
    assert interrupted(case, forge, tmp_path / "x", **how) == whole(case)
    assert resumed(tmp_path / "x") == []
    how = {"phase": "aggregate", "at": 1}
    assert interrupted(case, forge, tmp_path / "y", **how) == whole(case)


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(
    forge: Forge, whole: Callable[[str], Any], tmp_path: Path
) -> None:
    case, out = "fedrep, compressed", tmp_path / "x"
    assert forge.run(CASES[case], out, phase="collect", at=4) == -9
    for phase in ("write", "append", "rename", "aggregate"):
        assert forge.run(CASES[case], out, phase=phase, at=4, resume=True) == -9
    assert forge.run(CASES[case], out, resume=True) == 0
    assert outcome(out) == whole(case)
    events = [record.get("events", []) for record in RunDirectory(out).rounds()]
    assert [event["node"] for event in events[0] if event["what"] == "joined"] == [
        "partition-0",
        "partition-1",
    ]
    after = [number for number, some in enumerate(events) for e in some if e["what"] == "resumed"]
    assert set(after) <= set(resumed(out))
    assert len(resumed(out)) >= 3


def test_a_damaged_state_costs_a_round_and_no_bit(
    forge: Forge, whole: Callable[[str], Any], tmp_path: Path
) -> None:
    case, out = "fedrep, compressed", tmp_path / "x"
    assert forge.run(CASES[case], out, phase="collect", at=6) == -9
    content = (out / NEWEST).read_bytes()
    (out / NEWEST).write_bytes(content[:-100])
    assert forge.run(CASES[case], out, resume=True) == 0
    assert outcome(out) == whole(case)


def test_a_full_disk_names_the_file_and_leaves_the_last_state(
    forge: Forge, whole: Callable[[str], Any], tmp_path: Path
) -> None:
    case, out = "fedrep, compressed", tmp_path / "x"
    cases = (3000, 1000.0, "rounds.jsonl"), (150_000, 0.0, NEWEST)
    for limit, every, name in cases:
        assert forge.run(CASES[case], out, limit=limit, every=every, resume=out.exists()) == 1
        error = (tmp_path / "error").read_text()
        assert re.search(rf"DiskError: cannot write {out / name} \([\d,]+ bytes\): ", error)
        assert f"make room there, then go on with: fedmaml run --resume {out}" in error
        assert list(out.glob(".*.tmp")) == []
        assert RunDirectory(out).summary() is None
    assert (state := RunDirectory(out).newest_state().state)
    assert 1 <= state.round < SMALL["rounds"]
    assert forge.run(CASES[case], out, resume=True) == 0
    assert outcome(out) == whole(case)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_at_random_instants_ends_in_the_same_bits(
    case: str,
    forge: Forge,
    whole: Callable[[str], Any],
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    expected, started = whole(case), time.monotonic()
    assert forge.run(CASES[case], tmp_path / "timed") == 0
    seconds = time.monotonic() - started
    draw, killed = random.Random(case), 0
    while killed < 50:
        out = tmp_path / "x"
        shutil.rmtree(out, ignore_errors=True)
        ended = forge.run(CASES[case], out, after=draw.uniform(0, seconds))
        if ended == -9 and (out / "config.toml").exists():
            killed += 1
            complete = RunDirectory(out).summary() is not None  # killed in its last instants
            assert complete or forge.run(CASES[case], out, resume=True) == 0
            same = outcome(out) == expected
            record_property(RESUME, same)
            assert same
