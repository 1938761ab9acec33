"""Faults of real processes: SIGKILL of commands and of SuperNodes, links that are cut."""

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedmaml.config import resolve
from fedmaml.counting_proxy import CountingProxy
from fedmaml.running import execute
from fedmaml.runs.chain import NEWEST
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.verifying import verify
from fedmaml.simulations.backends import flower_deployment
from fedmaml.simulations.backends.processes import free_ports
from tests.commands import COMMAND
from tests.faults.report import RESUME, SECONDS
from tests.killed import outcome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.deployment,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc"),
]

SMALL = {
    "scenario": "digits", "clients": 4, "task.train_clients": 6, "task.validation_clients": 0,
    "task.test_clients": 4, "client_batch": 1, "inner.steps": 1,
}  # fmt: skip
MEMORIES = {"strategy": "fedrep", "compression.method": "top-k"}
DEPLOYMENT = {"backend": "flower-deployment", "nodes": 2}
KILLED: dict[str, tuple[dict[str, Any], int, int]] = {
    "workers, with memories": (MEMORIES | {"workers": 2}, 150, 40),
    "workers": ({"strategy": "fomaml", "workers": 2}, 150, 60),
    "Ray, with memories": (MEMORIES | {"backend": "flower-simulation", "nodes": 2}, 60, 20),
    "Ray": ({"strategy": "fomaml", "backend": "flower-simulation", "nodes": 2}, 60, 20),
    "deployment, with memories": (MEMORIES | DEPLOYMENT, 4, 2),
}
"""Case -> settings, rounds, and the round after which the command is killed."""


def rounds_in(out: Path) -> int:
    path = out / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(there: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ended(popen: subprocess.Popen[bytes]) -> bool:
    return popen.poll() is not None


def alike(value: Any) -> Any:
    """Return an outcome without what Flower's random numbers of nodes change: bytes of messages."""
    if isinstance(value, Mapping):
        random = ("message_bytes_up", "message_bytes_down", "per_message", "socket")
        return {key: alike(each) for key, each in value.items() if key not in random}
    return list(map(alike, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("case", KILLED)
def test_a_killed_run_goes_on_to_the_same_bits(
    case: str, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    settings, rounds, until = KILLED[case]
    if settings.get("backend") == "flower-simulation":
        pytest.importorskip("ray")
    config = resolve(SMALL | settings | {"rounds": rounds})
    execute(config, tmp_path / "whole")
    out = tmp_path / "cut"
    command = [*COMMAND, "run", "--config", str(tmp_path / "whole" / "config.toml")]
    with subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.DEVNULL) as popen:
        wait_for(lambda: (rounds_in(out) >= until and (out / NEWEST).exists()) or ended(popen))
        popen.send_signal(signal.SIGKILL)
    assert popen.returncode == -signal.SIGKILL
    killed = time.monotonic()
    wait_for(lambda: not processes_with(str(out).encode()), 60.0)
    record_property(SECONDS, time.monotonic() - killed)
    assert RunDirectory(out).summary() is None
    summary = execute(config, out, resume=True)
    assert summary["resumed_after"][0] >= 1
    same = alike(outcome(out)) == alike(outcome(tmp_path / "whole"))
    record_property(RESUME, same)
    assert same
    assert verify(RunDirectory(out))


def processes_with(word: bytes, name: bytes = b"") -> list[int]:
    """Return the processes with a word in their environment, and another in their command."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            texts = [(entry / file).read_bytes() for file in ("environ", "cmdline")]
        except OSError:
            continue
        if word in texts[0] and name in texts[1]:
            found.append(int(entry.name))
    return found


def test_the_others_go_on_without_a_killed_node(
    tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Flower notices a SuperNode that is gone after about a minute; later rounds do not wait."""
    config = resolve(
        SMALL | DEPLOYMENT | {"strategy": "fomaml", "rounds": 5, "clients": 0, "timeout": 120.0}
    )
    out = tmp_path / "x"
    killed: list[float] = []

    def kill() -> None:
        wait_for(lambda: rounds_in(out) >= 2)
        nodes = processes_with(str(out).encode(), b"flower-supernode")
        os.kill(min(nodes), signal.SIGKILL)
        killed.append(time.monotonic())
        wait_for(lambda: any(r["rejected"] for r in RunDirectory(out).rounds()))
        killed.append(time.monotonic())

    killer = threading.Thread(target=kill)
    killer.start()
    summary = execute(config, out)
    killer.join()
    record_property(SECONDS, killed[1] - killed[0])
    assert killed[1] - killed[0] < 120.0 + 60.0
    rounds = RunDirectory(out).rounds()
    assert len(rounds) == 5
    assert rounds[-1]["clients"] == 3
    assert {each["reason"] for each in rounds[-1]["rejected"]} == {"NO_REPLY"}
    assert summary["clients_evaluated"] == 2


class CutProxy(CountingProxy):
    """A proxy whose connections can be cut for a while."""

    def cut(self, seconds: float) -> None:
        target, (dead,) = self._target, free_ports(1)
        self._target = "127.0.0.1", dead
        self._loop.call_soon_threadsafe(self._drop)
        time.sleep(seconds)
        self._target = target

    def _drop(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            if "_connected" in str(task.get_coro()):
                task.cancel()


def test_a_link_that_was_cut_for_ten_seconds_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxies: list[CutProxy] = []

    def made(address: str) -> CutProxy:
        proxies.append(CutProxy(address))
        return proxies[-1]

    monkeypatch.setattr(flower_deployment, "CountingProxy", made)
    settings = SMALL | MEMORIES | {"rounds": 4}
    out = tmp_path / "there"

    def cut() -> None:
        wait_for(lambda: rounds_in(out) >= 1)
        proxies[0].cut(10.0)
        wait_for(lambda: rounds_in(out) >= 2)
        proxies[0].cut(10.0)

    cutter = threading.Thread(target=cut)
    cutter.start()
    there = execute(resolve(settings | DEPLOYMENT), out)
    cutter.join()
    here = execute(resolve(settings), tmp_path / "here")
    assert there["theta_sha256"] == here["theta_sha256"]
    assert json.dumps(there["metric"]) == json.dumps(here["metric"])
    assert (there["rejected_replies"], there["updates_used"]) == (0, here["updates_used"])
