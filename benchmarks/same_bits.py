"""The same run on every back end: fingerprints of the meta-parameters, and seconds.

    python -m benchmarks.same_bits [--data-dir DIR] [--strategies maml fomaml] [--json FILE]

Every run is `COMMAND`, a process of its own; Flower's back ends get four nodes. About ten minutes.
The exit code is 1 if a back end gives other bits.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tables import Table, add_json_option, print_tables, write

COMMAND = "fedmaml run hospitals --strategy S --rounds 3 --seed 0"
STRATEGIES = ("maml", "fomaml", "reptile", "meta_sgd", "fedrep")
BACKENDS = {
    "in-process": "",
    "flower-simulation": "--backend flower-simulation --nodes 4",
    "flower-deployment": "--backend flower-deployment --nodes 4",
}
COLUMNS = {
    "strategy": ["{name}"],
    "engine": ["{engine}"],
    "in-process": ["{in-process[bits]} {in-process[seconds]:.0f} s"],
    **{
        f"{name}, 4 nodes": [f"{{{name}[bits]}} {{{name}[seconds]:.0f}} s"]
        for name in ("flower-simulation", "flower-deployment")
    },
}


def run(strategy: str, options: str, data_dir: str) -> dict[str, Any]:
    """Return the summary of one run, in a process and a folder of its own."""
    words = COMMAND.replace(" S ", f" {strategy} ").split()[1:] + options.split()
    words += ["--data-dir", str(Path(data_dir).absolute())] if data_dir else []
    program = "from fedmaml.cli import main; main()"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", program, *words, "--out", f"{folder}/run", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure(strategy: str, data_dir: str) -> dict[str, Any]:
    """Return the row of one strategy."""
    summaries = {name: run(strategy, options, data_dir) for name, options in BACKENDS.items()}
    engines = {engine for each in summaries.values() for engine in each["engines"]["updates"]}
    row: dict[str, Any] = {"engine": ", ".join(sorted(engines))}
    for name, summary in summaries.items():
        row[name] = {"bits": summary["theta_sha256"][:8], "seconds": summary["seconds"]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--data-dir", default="")
    add_json_option(parser)
    arguments = parser.parse_args()
    rows = {name: measure(name, arguments.data_dir) for name in arguments.strategies}
    tables = {"hospitals": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)
    sys.exit(any(len({row[name]["bits"] for name in BACKENDS}) > 1 for row in rows.values()))


if __name__ == "__main__":
    main()
