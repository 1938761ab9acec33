"""What the journal costs where rounds are cheap: CPU time with and without commits, by turns.

python -m benchmarks.journal [--rounds 20000] [--turns 3] [--json FILE]

Sinusoid with FOMAML, two clients a round. Without commits the lines of rounds.jsonl are written all
the same, with their hashes; a second comparison leaves out the lines, too. Peak memory is that of
the process after the first thousand rounds, and at the end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tables import Table, add_json_option, print_tables, write

WAYS = ("lines and commits", "lines only", "neither")
CHILD = """
import json, resource, sys, time
from pathlib import Path
from fedmaml.config import resolve
from fedmaml.running import execute
from fedmaml.runs.chain import Lines
from fedmaml.runs.journal import Journal
from fedmaml.server import app
way, rounds, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
memory = []
append = Journal.append
def counted(self, record):
    if record.round == 1000:
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return append(self, record) if way != "neither" else Lines()
Journal.append = counted
if way != "lines and commits":
    Journal.commit = lambda *_, **__: None
started = time.process_time()
def end(run, state, directory, meter):
    seconds = time.process_time() - started
    memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(json.dumps([seconds, *memory]), flush=True)
    import os
    os._exit(0)
app._finish = end
config = {"scenario": "sinusoid", "strategy": "fomaml", "rounds": rounds, "clients": 2}
execute(resolve(config), out)
"""


def run(way: str, rounds: int) -> tuple[float, float, float]:
    """Return CPU seconds of the rounds, and peak memory at round 1000 and at the end in MB."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, way, str(rounds), str(Path(folder) / "x")],
            check=True, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    seconds, early, late = json.loads(done.stdout)
    return seconds, early / 1024, late / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=3)
    add_json_option(parser)
    chosen = parser.parse_args()
    taken: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    for turn in range(chosen.turns):
        for way in (WAYS, WAYS[::-1])[turn % 2]:
            taken[way].append(run(way, chosen.rounds))
            print(way, taken[way][-1], flush=True)
    rows: dict[str, Any] = {}
    base = statistics.median(each[0] for each in taken["neither"])
    for way, runs in taken.items():
        seconds, early, late = (statistics.median(column) for column in zip(*runs, strict=True))
        rows[way] = {
            "milliseconds": 1e3 * seconds / chosen.rounds, "ratio": seconds / base,
            "early": early, "late": late,
        }  # fmt: skip
    columns = {
        "written": ["{name}"], "CPU of a round, ms": ["{milliseconds:.3f}"],
        "ratio": ["{ratio:.3f}"], "MB after 1,000 rounds": ["{early:.1f}"],
        "MB at the end": ["{late:.1f}"],
    }  # fmt: skip
    tables = {f"{chosen.rounds:,} rounds": Table(columns, rows)}
    print_tables(tables)
    if chosen.json:
        write(chosen.json, tables)


if __name__ == "__main__":
    main()
