"""Hold `fedmaml estimate` against the runs it speaks of, as a Markdown table.

    python -m benchmarks.estimates [--processor-time]

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

SECONDS = 6.0
SCENARIOS = ("sinusoid", "digits", "hospitals", "quadratic")
STRATEGIES = ("maml", "fomaml", "reptile", "fedavg")


WALL = "from fedmaml.cli import main; main()"
PROCESSOR = f"import time; time.perf_counter = time.process_time; {WALL}"


def fedmaml(program: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", program, *arguments, "--json"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    return json.loads(done.stdout)


def rounds_for(program: str, scenario: str, strategy: str) -> int:
    """Return the rounds of a run of about `SECONDS`; a power of two times 25."""
    told = fedmaml(program, "estimate", scenario, "--strategy", strategy)["seconds"]
    each = told["round_clients"] + told["round_server"]
    rounds = 25
    while 2 * rounds * each < SECONDS:
        rounds *= 2
    return rounds


def row(program: str, scenario: str, strategy: str) -> str:
    rounds = rounds_for(program, scenario, strategy)
    command = (scenario, "--strategy", strategy, "--rounds", str(rounds))
    told, ran = fedmaml(program, "estimate", *command), fedmaml(program, "run", *command)
    totals, evaluation = ran["cost"]["totals"], ran["cost"]["evaluation"]
    messages = ("message_bytes_down", "message_bytes_up")
    ratios = (
        told["training"]["payload_bytes_down"] / totals["payload_bytes_down"],
        sum(told["training"][name] for name in messages) / sum(totals[name] for name in messages),
        told["training"]["flops"] / totals["flops"],
        told["evaluation"]["flops"] / evaluation["flops"],
        told["peak_bytes"] / totals["peak_bytes"],
        told["seconds"]["peak_process_bytes"] / ran["peak_process_bytes"],
    )
    seconds = told["seconds"]["total"]
    cells = " | ".join(f"{ratio:.3f}" for ratio in ratios)
    return (
        f"| {scenario} | {strategy} | {rounds} | {cells} | {seconds:.1f} | {ran['seconds']:.1f} | "
        f"{seconds / ran['seconds']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processor-time", action="store_true")
    program = PROCESSOR if parser.parse_args().processor_time else WALL
    print(
        "| scenario | strategy | rounds | payload | messages | operations | of evaluation "
        "| client memory | process memory | seconds, estimate | run | ratio |"
    )
    print("|---" * 12 + "|")
    for scenario in SCENARIOS:
        for strategy in STRATEGIES:
            print(row(program, scenario, strategy), flush=True)


if __name__ == "__main__":
    main()
