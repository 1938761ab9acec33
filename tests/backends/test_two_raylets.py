"""Flower's simulation on a Ray cluster of two machines; here two raylets stand for them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fedmaml.config import resolve
from fedmaml.running import execute
from fedmaml.simulations.backends.flower_processes import offline_environment
from fedmaml.simulations.backends.processes import executable, free_ports
from tests.provisioning.commands import wait_for

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.slow, pytest.mark.flower, pytest.mark.timeout(600)]

SETTINGS = {
    "scenario": "digits", "strategy": "fomaml", "rounds": 2, "clients": 6, "client_batch": 1,
    "task.train_clients": 8, "task.validation_clients": 0, "task.test_clients": 4,
}  # fmt: skip
COUNT = (
    "import ray; ray.init(address='auto', logging_level='error');"
    "print(sum(node['Alive'] for node in ray.nodes()), int(ray.cluster_resources()['CPU']))"
)


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two raylets of two cores each; yields their address."""
    folder = Path("/tmp") / f"ray-{os.getpid()}"  # short: it holds sockets
    environment = offline_environment(folder / "flower")
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    start = [executable("ray", environment), "start", "--num-cpus", "2", "--block"]
    head = ["--head", "--port", str(port), "--include-dashboard", "false"]
    log = (tmp_path_factory.mktemp("ray") / "log").open("wb")
    raylets = [
        subprocess.Popen([*start, *options], env=environment, stdout=log, stderr=log,
                         start_new_session=True)
        for options in ([*head, "--temp-dir", str(folder)],)
    ]  # fmt: skip
    try:
        wait_for(lambda: alive(address) >= (1, 2), "the first raylet", 90.0)
        raylets.append(
            subprocess.Popen([*start, "--address", address], env=environment, stdout=log,
                             stderr=log, start_new_session=True)
        )  # fmt: skip
        wait_for(lambda: alive(address) >= (2, 4), "the second raylet", 90.0)
        yield address
    finally:
        for raylet in reversed(raylets):
            raylet.terminate()
            with suppress(subprocess.TimeoutExpired):
                raylet.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(raylet.pid, signal.SIGKILL)
        log.close()


def alive(address: str) -> tuple[int, int]:
    """Return the number of raylets and of their cores."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT], env=os.environ | {"RAY_ADDRESS": address},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    words = done.stdout.split()
    return (int(words[-2]), int(words[-1])) if done.returncode == 0 else (0, 0)


def test_a_run_on_two_raylets_ends_in_the_same_bits(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = execute(resolve(SETTINGS), tmp_path / "here")
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    spread = {"backend": "flower-simulation", "nodes": 4}
    there = execute(resolve(SETTINGS, spread), tmp_path / "there")
    assert there["theta_sha256"] == here["theta_sha256"]
    assert (there["nodes"], there["rejected_replies"]) == (4, 0)
