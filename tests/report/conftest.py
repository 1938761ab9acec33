"""One small comparison and its report, for all tests of reports."""

from pathlib import Path

import pytest

from fedmaml.comparison.comparing import run_all
from fedmaml.comparison.planning import plan
from fedmaml.report import Written, write_report

SETTINGS = {
    "task.test_clients": 6,
    "task.train_clients": 20,
    "evaluation.every": 1,
    "evaluation.steps": [1, 3],
    "evaluation.shots": [1],
}


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of local, FedAvg and FOMAML; tests copy what they change."""
    out = tmp_path_factory.mktemp("compared")
    run_all(plan("digits", ["fomaml"], 2, [SETTINGS], 2), out)
    return out


@pytest.fixture(scope="session")
def written(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The report on `compared`, in a folder of its own."""
    return write_report([compared], tmp_path_factory.mktemp("report"))
