"""Compare `fedmaml estimate` with the runs that it estimates, as a Markdown table.

    python -m benchmarks.estimates [--processor-time] [--json FILE]

Every estimate and every run is a process of its own. Rounds are chosen so that a run takes about
`SECONDS`. Where others use the machine, too, wall time differs from one minute to the next; with
--processor-time both clocks count what the process itself used.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.tables import Table, add_json_option, print_tables, write

SECONDS = 6.0
SCENARIOS = ("sinusoid", "digits", "hospitals", "quadratic")
STRATEGIES = ("maml", "fomaml", "reptile", "fedavg")
COLUMNS = {
    "scenario": ["{scenario}"],
    "strategy": ["{strategy}"],
    "rounds": ["{rounds:.0f}"],
    "bytes, operations": ["{counted:.3f}"],
    "client memory": ["{client_memory:.3f}"],
    "process memory": ["{process_memory:.3f}"],
    "seconds, estimate": ["{seconds_estimate:.1f}"],
    "run": ["{seconds_run:.1f}"],
    "ratio": ["{seconds:.2f}"],
}

WALL = "from fedmaml.cli import main; main()"
PROCESSOR = f"import time; time.perf_counter = time.process_time; {WALL}"


def fedmaml(program: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", program, *arguments, "--json"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    return json.loads(done.stdout)


def rounds_for(program: str, scenario: str, strategy: str) -> int:
    """Return the rounds of a run of about `SECONDS`; a power of two times 25."""
    reported = fedmaml(program, "estimate", scenario, "--strategy", strategy)["seconds"]
    each = reported["round_clients"] + reported["round_server"]
    rounds = 25
    while 2 * rounds * each < SECONDS:
        rounds *= 2
    return rounds


def ratios(program: str, scenario: str, strategy: str) -> dict[str, Any]:
    """Return what was estimated over what the run took; of what is counted also the worst ratio."""
    rounds = rounds_for(program, scenario, strategy)
    command = (scenario, "--strategy", strategy, "--rounds", str(rounds))
    estimate, ran = fedmaml(program, "estimate", *command), fedmaml(program, "run", *command)
    totals, training = ran["cost"]["totals"], estimate["training"]
    messages = ("message_bytes_down", "message_bytes_up")
    seconds = estimate["seconds"]["total"]
    counted = {
        "payload": training["payload_bytes_down"] / totals["payload_bytes_down"],
        "messages": sum(training[name] for name in messages)
        / sum(totals[name] for name in messages),
        "operations": training["flops"] / totals["flops"],
        "evaluation": estimate["evaluation"]["flops"] / ran["cost"]["evaluation"]["flops"],
    }
    return {
        "scenario": scenario,
        "strategy": strategy,
        "rounds": rounds,
        **counted,
        "counted": max(counted.values(), key=lambda ratio: abs(ratio - 1)),
        "client_memory": estimate["peak_bytes"] / totals["peak_bytes"],
        "process_memory": estimate["seconds"]["peak_process_bytes"] / ran["peak_process_bytes"],
        "seconds_estimate": seconds,
        "seconds_run": ran["seconds"],
        "seconds": seconds / ran["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processor-time", action="store_true")
    add_json_option(parser)
    arguments = parser.parse_args()
    program = PROCESSOR if arguments.processor_time else WALL
    rows = {
        f"{scenario}, {strategy}": ratios(program, scenario, strategy)
        for scenario in SCENARIOS
        for strategy in STRATEGIES
    }
    tables = {"ratios": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
