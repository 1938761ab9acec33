"""Three real sites, each with a SuperNode, a thin app and a worker, over a real SuperLink."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fedmaml.config import resolve, to_run_config
from fedmaml.provisioning.roster import Roster, write_roster
from fedmaml.running import execute
from fedmaml.runs.directory import RUNS
from fedmaml.server.admission import APPROVED
from fedmaml.simulations.backends.apps import Apps
from fedmaml.simulations.backends.flower_processes import (
    CONNECTION,
    START_SECONDS,
    ask,
    environment_of,
    run_app,
    start_superlink,
    write_app,
)
from fedmaml.simulations.backends.processes import Workspace, free_ports, wait_until, workspace
from fedmaml.sites.site_file import NODE_CONFIG_KEY
from tests.sites.federation import SMALL, new_key, new_site
from tests.sites.test_worker import theta, workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.deployment,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc"),
]

SITES = 3
APPS = Apps(server="fedmaml.server.app:app", client="fedmaml.sites.app:app")


def deployed(folder: Path, files: list[Path], settings: dict[str, Any], out: str) -> None:
    """Run at real sites; the SuperLink knows the approved keys and the folder of runs."""
    run_config = to_run_config(resolve(settings), Path(out))
    with workspace() as space:
        write_app(space.folder / "app", APPS, run_config)
        variables = {APPROVED: str(folder / "approved.toml"), RUNS: str(folder / "runs")}
        superlink, address = start_superlink(space, **variables)
        nodes = [started_node(space, address, path) for path in files]

        def online() -> bool:
            listed = ask(space, "supernode", "list", CONNECTION).get("nodes", [])
            return [node["status"] for node in listed].count("online") == len(files)

        wait_until(online, [superlink, *nodes], 2 * START_SECONDS, "the sites to connect")
        run_app(space, space.folder / "app", superlink, nodes)


def started_node(space: Workspace, address: str, site_file: Path) -> Any:
    (port,) = free_ports(1)
    name = f"node-{site_file.parent.name}"
    command = ["flower-supernode", "--insecure", "--superlink", address, "--port", str(port)]
    command += ["--node-config", f'{NODE_CONFIG_KEY}="{site_file}"']
    return space.start(name, command, environment_of(space, name))


@pytest.mark.parametrize("killed", [False, True], ids=["quiet", "a worker is killed"])
def test_real_sites_compute_the_bits_of_one_process(tmp_path: Path, killed: bool) -> None:
    """With memories, compression and signatures; also if a worker is killed on the way."""
    settings = SMALL | {"rounds": 3, "nodes": SITES}
    execute(resolve(settings), tmp_path / "plain")
    files = [new_site(tmp_path / f"s{i}", i, SITES, key=True) for i in range(SITES)]
    keys = {f"site-{i}": new_key(tmp_path / f"s{i}" / "node.key") for i in range(SITES)}
    write_roster(tmp_path, Roster(keys))
    rounds = tmp_path / "runs" / "at-sites" / "rounds.jsonl"

    def kill_one() -> None:
        while not (rounds.exists() and rounds.read_bytes()):
            time.sleep(0.2)
        for pid in workers(files[1]):
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one if killed else lambda: None, daemon=True)
    killer.start()
    try:
        deployed(tmp_path, files, settings, "at-sites")
        killer.join()
    finally:
        for file in files:
            for pid in workers(file):
                os.kill(pid, signal.SIGKILL)
    assert theta(rounds.parent) == theta(tmp_path / "plain")
    assert [json.loads(line)["rejected"] for line in rounds.read_text().splitlines()] == [[]] * 3
