"""Everything at once: bad and lost replies, and SIGKILL of the server, at random for 200 rounds."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.verifying import verify
from tests.faults.report import RESUME
from tests.killed import Forge, outcome

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")]

ROUNDS, NODES = 200, 5
CASE = {
    "scenario": "digits", "strategy": "fedrep", "rounds": ROUNDS, "nodes": NODES, "clients": 0,
    "task.train_clients": NODES, "task.validation_clients": 0, "task.test_clients": NODES,
    "outer.lr": 0.1, "compression.method": "top-k", "inner.steps": 1, "inner.epochs": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    made = Forge()
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(20))
def test_every_round_is_taken_once_and_the_log_says_by_whom(
    seed: int, forge: Forge, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Which replies are bad is a function of seed, round and node, so the run can be repeated."""
    assert forge.run(CASE, tmp_path / "whole", nemesis=seed) == 0
    draw, out, kills = random.Random(seed), tmp_path / "cut", 0
    while RunDirectory(out).summary() is None:
        at = draw.randrange(1, 60)
        code = forge.run(
            CASE, out, nemesis=seed, phase="collect", at=at, resume=out.exists(), every=0.2
        )
        assert code in (0, -9)
        kills += code == -9
    assert kills >= 3
    same = outcome(out) == outcome(tmp_path / "whole")
    record_property(RESUME, same)
    assert same
    assert verify(RunDirectory(out))
    rounds = RunDirectory(out).rounds()
    assert [record["round"] for record in rounds] == list(range(1, ROUNDS + 1))
    for record in rounds:
        lost = {client for each in record["rejected"] for client in each["clients"]}
        assert record["clients"] == NODES - len(lost)
    assert {each["reason"] for record in rounds for each in record["rejected"]} == {
        "HASH", "NO_REPLY", "RAISED",
    }  # fmt: skip
