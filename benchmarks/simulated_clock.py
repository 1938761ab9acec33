"""The shipped profiles of links and devices, and simulated times of two runs on them.

    python -m benchmarks.simulated_clock [--json FILE]

Two runs of digits (FOMAML, one seed) are simulated: updates of 32 bits and of four.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.clock.profiles import load_profile, profiles
from fedmaml.clock.rows import clock
from fedmaml.config import resolve
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory

TARGET = 0.75
SETTINGS = {"scenario": "digits", "strategy": "fomaml", "evaluation.every": 5}
RUNS: dict[str, dict[str, Any]] = {"plain": {}, "four bits": {"compression.method": "qsgd-4"}}
PROFILES = {
    "profile": ["`{name}`"],
    "down, Mbit/s": ["{down_mbit_s}"],
    "up, Mbit/s": ["{up_mbit_s}"],
    "round trip, ms": ["{round_trip_ms}"],
    "GFLOP/s": ["{gflop_s}"],
    "spread of link, device": ["{link_spread}, {device_spread}"],
}
TIMES = {
    "simulated": ["`{name}`"],
    **{f"ms a round, {run}": [f"{{{run}[milliseconds_per_round]:~3}}"] for run in RUNS},
    **{
        f"s to accuracy {TARGET}, {run} (round)": [
            f"{{{run}[seconds_to_target]:~3}} ({{{run}[reached_round]}})",
            "not reached",
        ]
        for run in RUNS
    },
}


def measure() -> dict[str, dict[str, Any]]:
    """Run twice; return simulated times by profile and run."""
    rows: dict[str, dict[str, Any]] = {name: {} for name in profiles()}
    for run, settings in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            execute(resolve(SETTINGS | settings), out)
            for name, row in rows.items():
                times = clock(RunDirectory(out), load_profile(name), TARGET)
                row[run] = {
                    "milliseconds_per_round": 1e3 * (times.seconds_per_round or 0.0),
                    "seconds_to_target": times.seconds_to_target,
                    "reached_round": times.reached_round,
                }
    return rows


def described(name: str) -> dict[str, Any]:
    """Return the numbers of a shipped profile."""
    profile = load_profile(name)
    fields = (
        "down_mbit_s",
        "up_mbit_s",
        "round_trip_ms",
        "gflop_s",
        "link_spread",
        "device_spread",
    )
    return {field: getattr(profile, field) for field in fields}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_json_option(parser)
    arguments = parser.parse_args()
    tables = {
        "profiles": Table(PROFILES, {name: described(name) for name in profiles()}),
        "digits": Table(TIMES, measure()),
    }
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
