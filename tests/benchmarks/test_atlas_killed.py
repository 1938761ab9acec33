"""The atlas, killed in the middle and started again, writes the same bytes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FILE = """title = "{scenario}"
scenario = "{scenario}"
seeds = 2
strategies = ["{strategy}"]
[settings]
"task.test_clients" = 20
rounds = 50
"""
SYSTEMS = {"digits": "fomaml", "patients": "maml"}
MAIN = (
    "from pathlib import Path; import benchmarks.atlas.__main__ as atlas; "
    "atlas.EXPERIMENTS = Path('experiments'); atlas.PICTURE = Path('atlas.svg'); atlas.main()"
)


def started(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", MAIN, *SYSTEMS, "--out", "runs", "--json", "atlas.json"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)


def finished_runs(folder: Path) -> int:
    return len(list(folder.glob("runs/*/*/*/summary.json")))


def prepared(folder: Path) -> Path:
    (folder / "experiments").mkdir(parents=True)
    for scenario, strategy in SYSTEMS.items():
        text = FILE.format(scenario=scenario, strategy=strategy)
        (folder / "experiments" / f"{scenario}.toml").write_text(text)
    return folder


@pytest.mark.slow
def test_a_killed_atlas_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = prepared(tmp_path / "whole"), prepared(tmp_path / "killed")
    assert started(whole).wait(300) == 0
    runs = finished_runs(whole)
    for share in (0.2, 0.7):  # of the first system, and of the second
        process = started(killed)
        while finished_runs(killed) < share * runs:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert finished_runs(killed) < runs
    assert started(killed).wait(300) == 0
    assert finished_runs(killed) == runs
    for file in ("atlas.json", "atlas.svg"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes()
