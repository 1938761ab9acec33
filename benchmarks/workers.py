"""One against two, workers and threads of the kernel: wall time of rounds in process.

    python -m benchmarks.workers [--clients 2000] [--json FILE]

Both take turns; what counts is the least of three medians, of threads the least of 15 rounds.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from benchmarks.tables import Table, add_json_option, print_tables, write
from benchmarks.vectorised_clients import Stand
from fedmaml.computing.engines.fused.call import Call

CASES = (
    ("sinusoid", "fused"),
    ("sinusoid", "vmap"),
    ("digits", "fused"),
    ("digits", "vmap"),
    ("sinusoid", "loop"),
)
MEDIANS, ROUNDS = 3, 5
COLUMNS = {
    "scenario, engine": ["{name}"],
    "1 worker": ["{milliseconds[one]:~2} ms"],
    "2 workers": ["{milliseconds[two]:~2} ms"],
    "gain": ["{gain:.2f}x"],
}

OF_THREADS = {
    "scenario, strategy": ["{name}"],
    "kernel, 1 thread": ["{kernel[one]:~2} ms"],
    "2 threads": ["{kernel[two]:~2} ms"],
    "gain": ["{gains[kernel]:.2f}x"],
    "round, 1 thread": ["{round[one]:~2} ms"],
    "2 threads ": ["{round[two]:~2} ms"],
    "gain ": ["{gains[round]:.2f}x"],
}


def compared(scenario: str, engine: str, clients: int) -> dict[str, Any]:
    """Return the milliseconds of a round by one worker and by two."""
    settings = {
        "scenario": scenario, "strategy": "maml", "engine": engine, "clients": clients,
        "task.train_clients": clients, "rounds": 100,
    }  # fmt: skip
    stands = {"one": Stand(settings), "two": Stand(settings | {"workers": 2})}
    for stand in stands.values():
        stand.round()  # warms up, and starts the workers
    medians: dict[str, list[float]] = {name: [] for name in stands}
    for _ in range(MEDIANS):
        for name, stand in stands.items():
            medians[name].append(statistics.median(stand.round() for _ in range(ROUNDS)))
    best = {name: 1e3 * min(values) for name, values in medians.items()}
    return {"milliseconds": best, "gain": best["one"] / best["two"]}


@contextmanager
def timed_kernel() -> Iterator[list[float]]:
    """Collect the seconds of every call of the kernel for updates."""
    spent: list[float] = []
    original = Call.run

    def run(call: Call) -> Any:
        started = time.perf_counter()
        found = original(call)
        spent.append(time.perf_counter() - started)
        return found

    with patch.object(Call, "run", run):
        yield spent


def threads_compared(scenario: str, strategy: str, clients: int) -> dict[str, Any]:
    """Return the milliseconds of a round, and of its calls of the kernel, by one thread and two."""
    stand = Stand({
        "scenario": scenario, "strategy": strategy, "engine": "fused", "clients": clients,
        "task.train_clients": clients, "rounds": 100,
    })  # fmt: skip
    stand.round()
    found: dict[str, dict[str, list[float]]] = {
        name: {"one": [], "two": []} for name in ("kernel", "round")
    }
    with timed_kernel() as spent:
        for _ in range(MEDIANS * ROUNDS):
            for threads, count in {"one": "1", "two": "2"}.items():
                spent.clear()
                with patch.dict(os.environ, OMP_NUM_THREADS=count):
                    found["round"][threads].append(stand.round())
                found["kernel"][threads].append(sum(spent))
    row: dict[str, Any] = {
        name: {threads: 1e3 * min(values) for threads, values in each.items()}
        for name, each in found.items()
    }
    return row | {"gains": {name: row[name]["one"] / row[name]["two"] for name in found}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=2000)
    add_json_option(parser)
    arguments = parser.parse_args()
    rows = {f"{case[0]}, {case[1]}": compared(*case, arguments.clients) for case in CASES}
    of_threads = {
        f"{scenario}, {strategy}": threads_compared(scenario, strategy, arguments.clients)
        for scenario in ("sinusoid", "digits")
        for strategy in ("fomaml", "maml")
    }
    tables = {"rounds": Table(COLUMNS, rows), "threads": Table(OF_THREADS, of_threads)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
