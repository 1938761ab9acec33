"""Compression of updates: bytes saved and accuracy lost, on digits with the scenario's recipes.

python -m benchmarks.compression [--seeds 3] [--strategies fomaml fedavg]

Differences are paired by seed and test client.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.runs import column, mean_and_interval, print_table, run_clients

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


def measure(strategy: str, seeds: int) -> Iterator[list[str]]:
    """Run every method with every seed; yield one row of text for each."""
    reference, full_bytes = np.zeros(0), 0.0
    for name, settings in METHODS.items():
        per_seed, up = [], 0.0
        for seed in range(seeds):
            full = {"scenario": "digits", "strategy": strategy, "seed": seed}
            full |= {f"compression.{key}": value for key, value in settings.items()}
            summary, rows = run_clients(full)
            up = summary["cost"]["per_client_and_round"]["payload_bytes_up"]
            per_seed.append(column(rows, "accuracy:after"))
        values = np.stack(per_seed)
        if name == "none":
            reference, full_bytes = values, up
        lost = mean_and_interval((values - reference).ravel()) if name != "none" else ""
        of_seeds = " ".join(f"{mean:.3f}".lstrip("0") for mean in values.mean(1))
        yield [
            strategy, name, f"{up:,.0f}", f"{full_bytes / up:.1f}", f"{values.mean():.3f}",
            of_seeds, lost,
        ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", nargs="+", default=["fomaml", "fedavg"])
    arguments = parser.parse_args()
    header = ["strategy", "compression", "bytes up", "times fewer", "accuracy", "per seed",
              "minus none, paired"]  # fmt: skip
    print_table(
        header,
        (row for name in arguments.strategies for row in measure(name, arguments.seeds)),
    )


if __name__ == "__main__":
    main()
