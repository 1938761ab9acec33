"""Time and memory of rounds of 100,000 clients, from the run directories of `fedmaml run`.

python -m benchmarks.large_cohort [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tables import Table, add_json_option, print_tables, write

COMMAND = "run sinusoid --strategy S --clients 100000 --rounds 2"
STRATEGIES = ("fomaml", "maml")
COLUMNS = {
    "strategy": ["{name}"],
    "MiB, the whole process": ["{mebibytes:.0f}"],
    "s a round": ["{seconds:.1f}"],
}


def measure(strategy: str) -> dict[str, Any]:
    """Run in a process of its own; return what its run directory says."""
    program = "from fedmaml.cli import main; main()"
    with tempfile.TemporaryDirectory() as folder:
        words = COMMAND.replace(" S ", f" {strategy} ").split()
        command = [sys.executable, "-c", program, *words, "--out", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads(Path(folder, "run", "summary.json").read_text())
    seconds = summary["cost"]["seconds_per_round"]
    return {"mebibytes": summary["peak_process_bytes"] / 2**20, "seconds": sum(seconds.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_json_option(parser)
    arguments = parser.parse_args()
    tables = {"sinusoid": Table(COLUMNS, {name: measure(name) for name in STRATEGIES})}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
