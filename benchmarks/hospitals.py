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
NAMES = ("Cleveland", "Hungary", "Switzerland", "Long Beach")
PUBLISHED = {
    "Pooled training": [78.3, 76.4, 75.0, 64.4, 73.5],
    "Local": [74.6, 74.6, 72.5, 70.2, 73.0],
    "FedAvg": [73.1, 71.9, 65.0, 64.0, 68.5],
    "FedYogi": [76.0, 75.3, 73.8, 67.6, 73.1],
}
"""Accuracy in per cent by logistic regression, mean of 5 seeds, of FLamby's Fed-Heart-Disease (du
Terrail et al., NeurIPS 2022; recomputed from the result files in its repository). The same source,
but other patients (the 740 of 920 without gaps in the columns it keeps, of whom 486 train)."""


def measure(protocol: str, network: str, seeds: int, data_dir: str) -> dict[str, np.ndarray]:
    """Return method -> values ``(seeds, hospitals, METRICS)``."""
    done: dict[tuple[str, int], list[dict[str, Any]]] = {}
    results = {}
    for name, (strategy, stage) in METHODS.items():
        per_seed = []
        for seed in range(seeds):
            key = strategy, seed
            if key not in done:
                done[key] = _rows(strategy, seed, protocol, network, data_dir)
            per_seed.append([column(done[key], f"{metric}:{stage}") for metric in METRICS])
        results[name] = np.array(per_seed).transpose(0, 2, 1)
    return results


def print_means(results: dict[str, np.ndarray]) -> None:
    """Print means over the four hospitals, with intervals over seeds (splits)."""
    means = {name: np.nanmean(values, axis=1) for name, values in results.items()}
    table = []
    for name, values in means.items():
        difference = values[:, 2] - means[REFERENCE][:, 2]
        cells = [mean_and_interval(values[:, i]) for i in range(len(METRICS))]
        table.append([name, *cells, "" if name == REFERENCE else mean_and_interval(difference)])
    header = ["method", "accuracy", "balanced accuracy", "AUC", f"AUC minus {REFERENCE}"]
    print_table(header, table)


def print_each(results: dict[str, np.ndarray], published: dict[str, list[float]]) -> None:
    """Print the accuracy at each hospital, with intervals over seeds, above published figures."""
    table = []
    for name, values in results.items():
        accuracy = values[:, :, METRICS.index("accuracy")]
        each = [*accuracy.T, np.nanmean(accuracy, axis=1)]
        table.append([name, *(mean_and_interval(column) for column in each)])
    for name, figures in published.items():
        table.append([f"{name} (published)", *(f"{figure / 100:.3f}" for figure in figures)])
    print_table(["accuracy", *NAMES, "mean of 4"], table)


def _rows(
    strategy: str, seed: int, protocol: str, network: str, data_dir: str
) -> list[dict[str, Any]]:
    """Return the results at each hospital, in the order of `NAMES`."""
    settings = {
        "scenario": "hospitals", "strategy": strategy, "seed": seed, "data_dir": data_dir,
        "task.protocol": protocol, "task.network": network,
    }  # fmt: skip
    if protocol == "within":
        return run_clients(settings)[1]
    return [run_clients(settings | {"task.held_out": hospital})[1][0] for hospital in range(4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data-dir", default="")
    arguments = parser.parse_args()
    for protocol in ("within", "leave-one-out"):
        for network in ("lr", "mlp"):
            print(f"\n### {protocol}, {network}, {arguments.seeds} seeds\n")
            results = measure(protocol, network, arguments.seeds, arguments.data_dir)
            print_means(results)
            print()
            comparable = protocol == "within" and network == "lr"
            print_each(results, PUBLISHED if comparable else {})


if __name__ == "__main__":
    main()
