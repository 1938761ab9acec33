"""Hospitals over seeds: within each hospital, and leaving one out.

python -m benchmarks.hospitals [--seeds 10] [--data-dir DIR] [--json docs/data/hospitals.json]
"""

import argparse
from typing import Any

import numpy as np

from benchmarks.runs import column, mean_and_interval, run_clients
from benchmarks.tables import Table, add_json_option, estimate, print_tables, write

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


def means(results: dict[str, np.ndarray]) -> Table:
    """Return means over the four hospitals, with intervals over seeds (splits)."""
    over_hospitals = {name: np.nanmean(values, axis=1) for name, values in results.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, values in over_hospitals.items():
        rows[name] = {metric: mean_and_interval(values[:, i]) for i, metric in enumerate(METRICS)}
        for i, metric in enumerate(METRICS):
            paired = values[:, i] - over_hospitals[REFERENCE][:, i]
            rows[name][f"{metric}_difference"] = (
                None if name == REFERENCE else mean_and_interval(paired)
            )
    columns = {
        "method": ["{name}"],
        "accuracy": estimate("accuracy"),
        "balanced accuracy": estimate("balanced_accuracy"),
        "AUC": estimate("auc"),
        f"AUC minus {REFERENCE}": estimate("auc_difference"),
    }
    return Table(columns, rows)


def each_hospital(results: dict[str, np.ndarray], published: dict[str, list[float]]) -> Table:
    """Return the accuracy at each hospital, with intervals over seeds, above published figures."""
    names = (*NAMES, "mean of 4")
    rows = {}
    for name, values in results.items():
        accuracy = values[:, :, METRICS.index("accuracy")]
        each = [*accuracy.T, np.nanmean(accuracy, axis=1)]
        rows[name] = dict(zip(names, map(mean_and_interval, each), strict=True))
    for name, figures in published.items():
        each = [{"mean": figure / 100} for figure in figures]
        rows[f"{name} (published)"] = dict(zip(names, each, strict=True))
    return Table({"accuracy": ["{name}"]} | {name: estimate(name) for name in names}, rows)


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
    add_json_option(parser)
    arguments = parser.parse_args()
    tables = {}
    for protocol in ("within", "leave-one-out"):
        for network in ("lr", "mlp"):
            results = measure(protocol, network, arguments.seeds, arguments.data_dir)
            comparable = protocol == "within" and network == "lr"
            tables[f"{protocol}, {network}"] = means(results)
            tables[f"{protocol}, {network}, each"] = each_hospital(
                results, PUBLISHED if comparable else {}
            )
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
