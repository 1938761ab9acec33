"""What a message costs a site with its worker, without it, and with a Flower app that does nothing.

    python -m benchmarks.site_worker [--turns 9] [--data-dir DIR] [--json FILE]

One site of `hospitals`, one SuperLink, three SuperNodes on this machine: one answers as the
loopback deployment does, one by the site's worker, one with an empty reply. The server asks them in
turn, so that the machine's load meets all alike; the bits of both updates are compared. CPU seconds
are those of the SuperNode with all that it starts, and of the worker. Only on Linux.
"""

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.site_worker_app import MEASURED, OF_WORKER, TURNS, VARIANTS
from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.config import resolve, to_run_config
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
from fedmaml.simulations.backends.processes import (
    Child,
    Workspace,
    free_ports,
    wait_until,
    workspace,
)
from fedmaml.sites.site_file import NODE_CONFIG_KEY, Data, Folders, Site, write_site_file

APPS = Apps("benchmarks.site_worker_app:server", "benchmarks.site_worker_app:client")
SITES = 4
NAMES = {"today": "a process for each message", "worker": "the site's worker", "bare": "bare app"}
COLUMNS = {
    "a message is answered by": ["{name}"],
    "CPU": ["{cpu:.2f} s"],
    "of a process for each": ["{percent_cpu:.0f} %"],
    "wall": ["{seconds:.2f} s"],
    "of the bare app": ["{percent_of_bare:.0f} %"],
}


def measured(turns: int, data_dir: str) -> dict[str, dict[str, list[float]]]:
    """Return CPU seconds and seconds of every message, by variant."""
    with tempfile.TemporaryDirectory() as name, workspace() as space:
        folder = Path(name)
        site_file = folder / "site.toml"
        folders = Folders(memories=folder / "memories", worker=folder / "worker")
        write_site_file(site_file, Site("a", 0, SITES, Data(folder=Path(data_dir)), folders))
        superlink, address = start_superlink(space)
        nodes = [_node(space, address, variant, site_file, data_dir) for variant in VARIANTS]

        def online() -> bool:
            listed = ask(space, "supernode", "list", CONNECTION).get("nodes", [])
            return [node["status"] for node in listed].count("online") == len(nodes)

        wait_until(online, [superlink, *nodes], 2 * START_SECONDS, "the SuperNodes to register")
        config = resolve({"scenario": "hospitals", "strategy": "fomaml", "data_dir": data_dir})
        plain = to_run_config(replace(config, data_dir=""), Path("unused"))
        out = folder / "measured.json"
        run_config = {**plain, TURNS: turns, MEASURED: str(out), OF_WORKER: str(site_file)}
        write_app(space.folder / "app", APPS, run_config)
        run_app(space, space.folder / "app", superlink, nodes)
        return dict(json.loads(out.read_text()))


def _node(space: Workspace, address: str, variant: str, site_file: Path, data_dir: str) -> Child:
    (port,) = free_ports(1)
    own = f'partition-id=0 num-partitions={SITES} variant="{variant}"'
    if variant == "worker":
        own = f'variant="{variant}" {NODE_CONFIG_KEY}="{site_file}"'
    command = ["flower-supernode", "--insecure", "--superlink", address, "--port", str(port)]
    environment = environment_of(space, variant) | {"FEDMAML_DATA": data_dir}
    return space.start(variant, [*command, "--node-config", own], environment)


def rows_of(found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return a row for each variant: medians over the turns, and shares of the others'."""
    median = {
        variant: {key: statistics.median(values) for key, values in of_variant.items()}
        for variant, of_variant in found.items()
    }
    return {
        NAMES[variant]: {
            "cpu": values["cpu_seconds"],
            "seconds": values["seconds"],
            "percent_cpu": 100 * values["cpu_seconds"] / median["today"]["cpu_seconds"],
            "percent_of_bare": 100 * values["seconds"] / median["bare"]["seconds"],
            "every_cpu": found[variant]["cpu_seconds"],
            "every_seconds": found[variant]["seconds"],
        }
        for variant, values in median.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--data-dir", default=os.environ.get("FEDMAML_DATA", ""))
    add_json_option(parser)
    arguments = parser.parse_args()
    if not arguments.data_dir:
        parser.error("name the folder of the data: --data-dir DIR, with DIR/heart_disease")
    rows = rows_of(measured(arguments.turns, str(Path(arguments.data_dir).absolute())))
    tables = {"messages": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
