"""Hospitals over seeds: within each hospital, and leaving one out.

python -m benchmarks.hospitals [--seeds 10] [--data-dir DIR]
"""

import argparse
from typing import Any

import numpy as np

from benchmarks.runs import column, mean_and_interval, print_table, run_clients

METHODS = {
    "Local": ("local", "after"),
    "FedAvg": ("fedavg", "before"),
    "FedAvg + fine-tuning": ("fedavg", "after"),
    "Reptile": ("reptile", "after"),
    "FOMAML": ("fomaml", "after"),
    "MAML": ("maml", "after"),
}
METRICS = ("accuracy", "balanced_accuracy", "auc")
REFERENCE = "FedAvg + fine-tuning"


def measure(protocol: str, network: str, seeds: int, data_dir: str) -> None:
    """Print mean over the four hospitals, with intervals over seeds (splits)."""
    results: dict[str, np.ndarray] = {}  # method -> (seeds, metrics)
    done: dict[tuple[str, int], list[list[dict[str, Any]]]] = {}
    for name, (strategy, stage) in METHODS.items():
        per_seed = []
        for seed in range(seeds):
            key = strategy, seed
            if key not in done:
                done[key] = _runs(strategy, seed, protocol, network, data_dir)
            rows = [row for run in done[key] for row in run]
            per_seed.append([np.nanmean(column(rows, f"{m}:{stage}")) for m in METRICS])
        results[name] = np.array(per_seed)
    table = []
    for name, values in results.items():
        difference = values[:, 2] - results[REFERENCE][:, 2]
        cells = [mean_and_interval(values[:, i]) for i in range(len(METRICS))]
        table.append([name, *cells, "" if name == REFERENCE else mean_and_interval(difference)])
    header = ["method", "accuracy", "balanced accuracy", "AUC", f"AUC minus {REFERENCE}"]
    print_table(header, table)


def _runs(
    strategy: str, seed: int, protocol: str, network: str, data_dir: str
) -> list[list[dict[str, Any]]]:
    settings = {
        "scenario": "hospitals", "strategy": strategy, "seed": seed, "data_dir": data_dir,
        "task.protocol": protocol, "task.network": network,
    }  # fmt: skip
    if protocol == "within":
        return [run_clients(settings)[1]]
    return [run_clients(settings | {"task.held_out": hospital})[1] for hospital in range(4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data-dir", default="")
    arguments = parser.parse_args()
    for protocol in ("within", "leave-one-out"):
        for network in ("lr", "mlp"):
            print(f"\n### {protocol}, {network}, {arguments.seeds} seeds\n")
            measure(protocol, network, arguments.seeds, arguments.data_dir)


if __name__ == "__main__":
    main()
