"""What a round costs beside the clients' own mathematics, in process.

python -m benchmarks.round_overhead [--rounds 2000] [--json FILE]

Two small rounds: the paper's sinusoid round (25 clients, MAML), and that of the digits (20 clients,
FOMAML). Mathematics is the time inside the engine; what is left beside it and the drawing of data
(cohort, messages, checks, exact sum, outer step) is overhead. CPU time, one thread.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from benchmarks.tables import Table, add_json_option, print_tables, write
from benchmarks.vectorised_clients import Stand
from fedmaml.computing.engines.fused import Fused
from fedmaml.simulations.scenarios import Digits, Sinusoid

CASES = {"sinusoid, maml": Sinusoid, "digits, fomaml": Digits}
COLUMNS = {
    "part": ["{name}"],
    "median, ms": ["{milliseconds:.2f}"],
    "least, ms": ["{least:.2f}"],
}


class Stopwatch:
    """A function that notes the CPU seconds of its calls.

    Args:
        function: What is called; an iterator that it returns is exhausted in the same call.
    """

    def __init__(self, function: Any) -> None:
        self.function, self.seconds = function, list[float]()

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        started = time.process_time()
        result = self.function(*args)
        if isinstance(result, Iterator):
            result = iter(list(result))
        self.seconds.append(time.process_time() - started)
        return result


def measured(case: str, rounds: int) -> Table:
    """Return the table of a case."""
    scenario, strategy = case.split(", ")
    stand = Stand({"scenario": scenario, "strategy": strategy, "rounds": rounds})
    for _ in range(20):  # every shape of message has been met then
        stand.round()
    mathematics, data = Stopwatch(Fused.compute), Stopwatch(CASES[case].tasks)
    with (
        patch.object(Fused, "compute", lambda *args: mathematics(*args)),
        patch.object(CASES[case], "tasks", lambda *args: data(*args)),
    ):
        whole = Stopwatch(stand.round)
        for _ in range(rounds):
            whole()
    parts = zip(whole.seconds, mathematics.seconds, data.seconds, strict=True)
    overhead = [round - update - draw for round, update, draw in parts]
    rows = {
        name: {"milliseconds": 1e3 * statistics.median(values), "least": 1e3 * min(values)}
        for name, values in (
            ("whole round", whole.seconds),
            ("clients' mathematics", mathematics.seconds),
            ("drawing the clients' data", data.seconds),
            ("overhead", overhead),
        )
    }
    return Table(COLUMNS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    add_json_option(parser)
    arguments = parser.parse_args()
    tables = {case: measured(case, arguments.rounds) for case in CASES}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
