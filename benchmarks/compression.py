"""Compression of updates: bytes saved and accuracy lost, on digits with the scenario's recipes.

python -m benchmarks.compression [--seeds 3] [--strategies fomaml fedavg] [--json FILE]

Differences are paired by seed and test client.
"""

import argparse
from typing import Any

import numpy as np

from benchmarks.runs import column, mean_and_interval, run_clients
from benchmarks.tables import Table, add_json_option, estimate, print_tables, write

METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "float16": {"method": "float16"},
    "qsgd-8": {"method": "qsgd-8"},
    "qsgd-4": {"method": "qsgd-4"},
    "qsgd-4, feedback": {"method": "qsgd-4", "error_feedback": True},
    "top-k, 10 %": {"method": "top-k", "fraction": 0.1},
    "top-k, 10 %, no feedback": {"method": "top-k", "fraction": 0.1, "error_feedback": False},
    "top-k, 1 %": {"method": "top-k", "fraction": 0.01},
    "top-k, 1 %, no feedback": {"method": "top-k", "fraction": 0.01, "error_feedback": False},
}
COLUMNS = {
    "strategy": ["{strategy}"],
    "compression": ["{compression}"],
    "bytes up": ["{bytes_up:,.0f}"],
    "times fewer": ["{times_fewer:.1f}"],
    "accuracy": ["{accuracy:.3f}"],
    "per seed": ["{per_seed:.3f}"],
    "minus none, paired": estimate("difference"),
}


def measure(strategy: str, seeds: int) -> dict[str, dict[str, Any]]:
    """Run every method with every seed; return one row for each method."""
    reference, full_bytes = np.zeros(0), 0.0
    rows: dict[str, dict[str, Any]] = {}
    for name, settings in METHODS.items():
        per_seed, up = [], 0.0
        for seed in range(seeds):
            full = {"scenario": "digits", "strategy": strategy, "seed": seed}
            full |= {f"compression.{key}": value for key, value in settings.items()}
            summary, clients = run_clients(full)
            up = summary["cost"]["per_client_and_round"]["payload_bytes_up"]
            per_seed.append(column(clients, "accuracy:after"))
        values = np.stack(per_seed)
        if name == "none":
            reference, full_bytes = values, up
        rows[f"{strategy}, {name}"] = {
            "strategy": strategy,
            "compression": name,
            "bytes_up": up,
            "times_fewer": full_bytes / up,
            "accuracy": float(values.mean()),
            "per_seed": values.mean(1).tolist(),
            "difference": None
            if name == "none"
            else mean_and_interval((values - reference).ravel()),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", nargs="+", default=["fomaml", "fedavg"])
    add_json_option(parser)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for strategy in arguments.strategies:
        rows |= measure(strategy, arguments.seeds)
    tables = {"digits": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
