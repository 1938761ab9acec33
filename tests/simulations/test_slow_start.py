"""Several processes of one ServerApp: real processes by that name, which do not start anything."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedmaml.core.errors import BackendError
from fedmaml.simulations.backends.processes import workspace
from fedmaml.simulations.backends.slow_start import SlowStart

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[list[int]]:
    """Two processes whose program is called as Flower's, as on a machine that is too busy."""
    script = tmp_path / "flwr-serverapp"
    script.write_text("import time; time.sleep(60)")
    with ExitStack() as stack:
        started = []
        for _ in range(2):
            popen = subprocess.Popen([sys.executable, "-S", str(script)])
            stack.callback(popen.wait)
            stack.callback(popen.kill)
            started.append(popen.pid)
        wait_for(started)
        yield started


def wait_for(started: list[int]) -> None:
    """Wait until processes have their names, which they get a moment after they are there."""
    while not all(b"flwr-serverapp" in Path(f"/proc/{p}/cmdline").read_bytes() for p in started):
        time.sleep(0.01)


def test_a_second_start_is_said_once_and_ends_the_run_when_it_lasts(
    pids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    watch = SlowStart(lambda: [os.getpid(), *pids], patience=0.2, every=0.0)
    with caplog.at_level(logging.WARNING, "fedmaml"):
        watch.look()
        watch.look()
    assert caplog.text.count("Flower started the ServerApp again") == 1
    time.sleep(0.3)
    with pytest.raises(BackendError, match=r"^2 processes of the same ServerApp .*Run it again"):
        watch.look()


def test_one_that_starts_in_the_end_is_no_fault(pids: list[int]) -> None:
    alive = list(pids)
    watch = SlowStart(lambda: alive, patience=0.2, every=0.0)
    watch.look()
    time.sleep(0.3)
    alive.pop()
    watch.look()
    alive.append(pids[1])
    watch.look()  # the time begins anew


def test_processes_of_a_workspace_are_seen(tmp_path: Path) -> None:
    script = tmp_path / "flwr-serverapp"
    script.write_text("import time; time.sleep(60)")
    with workspace() as space:
        command = [sys.executable, "-S", str(script)]
        children = [space.start(name, command, dict(os.environ)) for name in ("first", "second")]
        wait_for([child.popen.pid for child in children])
        watch = SlowStart(space.members, patience=0.0, every=0.0)
        watch.look()
        with pytest.raises(BackendError, match="too busy"):
            watch.look()
