"""A small run, and parts of it as a run that goes on."""

from pathlib import Path

import pytest

from fedmaml.config import resolve
from fedmaml.running import execute

ROUNDS = 4


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    settings = {
        "scenario": "sinusoid", "strategy": "fomaml", "rounds": ROUNDS, "clients": 4,
        "task.train_clients": 8, "task.validation_clients": 3, "task.test_clients": 3,
        "evaluation.every": 2,
    }  # fmt: skip
    execute(resolve(settings), out)
    return out
