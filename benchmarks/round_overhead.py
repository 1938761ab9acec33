"""What a round costs beside the clients' own mathematics, in process.

python -m benchmarks.round_overhead [--rounds 2000]

The paper's sinusoid round (25 clients, MAML). Mathematics is the time inside the vectorised client
update; everything else (cohort, tasks, messages, checks, exact sum, outer step) is overhead.
"""

import argparse
import statistics
import time
from typing import Any

from benchmarks.runs import print_table
from benchmarks.vectorised_clients import Stand
from fedmaml.client import work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    arguments = parser.parse_args()
    stand = Stand({"scenario": "sinusoid", "strategy": "maml", "rounds": arguments.rounds})
    mathematics: list[float] = []
    apply = work._apply

    def timed(*args: Any) -> Any:
        started = time.perf_counter()
        result = apply(*args)
        mathematics.append(time.perf_counter() - started)
        return result

    work._apply = timed
    rounds = [stand.round() for _ in range(arguments.rounds)][100:]
    overhead = [whole - part for whole, part in zip(rounds, mathematics[100:], strict=True)]
    table = [
        [name, f"{1e3 * statistics.median(values):.2f}"]
        for name, values in (
            ("whole round", rounds),
            ("clients' mathematics", mathematics[100:]),
            ("overhead", overhead),
        )
    ]
    print_table(["part", "median, ms"], table)


if __name__ == "__main__":
    main()
