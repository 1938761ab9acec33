"""What a round costs beside the clients' own mathematics, in process.

python -m benchmarks.round_overhead [--rounds 2000] [--json FILE]

The paper's sinusoid round (25 clients, MAML). Mathematics is the time inside the engine; what is
left beside it and the drawing of data (cohort, messages, checks, exact sum, outer
step) is overhead.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.tables import Table, add_json_option, print_tables, write
from benchmarks.vectorised_clients import Stand
from fedmaml.computing.engines.fused import Fused
from fedmaml.simulations.scenarios import Sinusoid


def timed(owner: Any, name: str) -> list[float]:
    """Replace a function by itself with a stopwatch; return the list that the seconds go to."""
    function, seconds = getattr(owner, name), []

    def stopwatch(*args: Any) -> Any:
        started = time.perf_counter()
        result = function(*args)
        if isinstance(result, Iterator):
            result = iter(list(result))
        seconds.append(time.perf_counter() - started)
        return result

    setattr(owner, name, stopwatch)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    add_json_option(parser)
    arguments = parser.parse_args()
    stand = Stand({"scenario": "sinusoid", "strategy": "maml", "rounds": arguments.rounds})
    stand.round()  # warms up
    mathematics, data = timed(Fused, "compute"), timed(Sinusoid, "tasks")
    rounds = [stand.round() for _ in range(arguments.rounds)]
    parts = zip(rounds, mathematics, data, strict=True)
    overhead = [whole - update - draw for whole, update, draw in parts]
    rows = {
        name: {"milliseconds": 1e3 * statistics.median(values)}
        for name, values in (
            ("whole round", rounds),
            ("clients' mathematics", mathematics),
            ("drawing the clients' data", data),
            ("overhead", overhead),
        )
    }
    columns = {"part": ["{name}"], "median, ms": ["{milliseconds:.2f}"]}
    tables = {"sinusoid, maml": Table(columns, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
