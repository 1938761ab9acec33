"""What a command costs before and beside its computation: CPU of whole processes.

python -m benchmarks.startup [--repeats 7] [--json FILE]

Every command is a process of its own, with one thread. The commands take turns, so that other work
on the machine slows all of them; the median of the CPU seconds (user and system) counts. The ratio
is to the import of the two libraries alone, in the same turn. The first line is that of standard
error or output; its wall time is the least of all turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import Table, add_json_option, print_tables, write

LIBRARIES = "import torch, flwr"
RUN = ["run", "digits", "--strategy", "fomaml", "--rounds", "1", "--out", "run", "--force"]
WRONG = ["-m", "fedmaml.cli", "run", "digits", "--set", "inner.lr=-1"]
COMMANDS = {
    f"`python -c '{LIBRARIES}'`": ["-c", LIBRARIES],
    "`fedmaml --version`": ["-m", "fedmaml.cli", "--version"],
    "`fedmaml --help`": ["-m", "fedmaml.cli", "--help"],
    "`fedmaml list`": ["-m", "fedmaml.cli", "list"],
    "`fedmaml run digits --set inner.lr=-1` (refused)": WRONG,
    "`fedmaml run digits --strategy fomaml --rounds 1`": ["-m", "fedmaml.cli", *RUN],
    "`fedmaml run digits`": ["-m", "fedmaml.cli", "run", "digits", "--out", "run", "--force"],
}
COLUMNS = {
    "command": ["{name}"],
    "CPU, s": ["{cpu:.2f}"],
    "over the import of torch and flwr": ["{ratio:.2f}x"],
    "first line after, s": ["{first_line:.2f}"],
}


@dataclass(frozen=True)
class Measured:
    """One process.

    Attributes:
        cpu: Seconds of user and system time, its children included.
        first_line: Wall seconds until it wrote a line; None if it wrote none.
    """

    cpu: float
    first_line: float | None


def measured(arguments: list[str], folder: Path) -> Measured:
    """Run Python with arguments in a folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
    ) as process:
        assert process.stdout is not None
        first = time.perf_counter() - started if process.stdout.readline() else None
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == (1 if arguments == WRONG else 0), arguments
    return Measured(usage.ru_utime + usage.ru_stime, first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    add_json_option(parser)
    arguments = parser.parse_args()
    turns: list[dict[str, Measured]] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.repeats + 1):
            found = {name: measured(words, Path(folder)) for name, words in COMMANDS.items()}
            if turn:  # the first one reads files from the disk
                turns.append(found)
    libraries = next(iter(COMMANDS))
    rows = {}
    for name in COMMANDS:
        lines = [each for turn in turns if (each := turn[name].first_line) is not None]
        rows[name] = {
            "cpu": statistics.median(turn[name].cpu for turn in turns),
            "ratio": statistics.median(turn[name].cpu / turn[libraries].cpu for turn in turns),
            "first_line": min(lines) if lines else None,
        }
    tables = {"commands": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
