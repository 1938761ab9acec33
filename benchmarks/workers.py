"""One worker against two: wall time of a round of MAML with 2,000 clients, in process.

    python -m benchmarks.workers [--clients 2000] [--json FILE]

Both take turns; what counts is the least of three medians.
"""

import argparse
import statistics
from typing import Any

from benchmarks.tables import Table, add_json_option, print_tables, write
from benchmarks.vectorised_clients import Stand

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=2000)
    add_json_option(parser)
    arguments = parser.parse_args()
    rows = {f"{case[0]}, {case[1]}": compared(*case, arguments.clients) for case in CASES}
    tables = {"rounds": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
