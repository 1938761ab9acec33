"""Digits over seeds: every method beside the baselines.

python -m benchmarks.digits [--seeds 5] [--json docs/data/digits.json]
"""

import argparse
from typing import Any

import numpy as np
import torch

from benchmarks.runs import column, mean_and_interval, run_clients
from benchmarks.tables import Table, add_json_option, estimate, print_tables, write
from fedmaml.computing.references import evaluate_references
from fedmaml.simulations.scenarios import Digits

METHODS: dict[str, tuple[dict[str, Any], str]] = {
    "Local, 200 steps": ({"strategy": "local"}, "after"),
    "1-nearest neighbour on the support set": ({}, "nearest"),
    "FedAvg, not adapted": ({"strategy": "fedavg"}, "before"),
    "FedAvg + fine-tuning, 5 steps": ({"strategy": "fedavg"}, "after@5"),
    "FedAvg + fine-tuning, 30 steps": ({"strategy": "fedavg"}, "after"),
    "FedProx + fine-tuning, 30 steps": ({"strategy": "fedprox"}, "after"),
    "Reptile, 30 steps": ({"strategy": "reptile"}, "after"),
    "FedAdam + fine-tuning, 300 rounds, tuned": ({"strategy": "fedadam"}, "after"),
    "FedRep": ({"strategy": "fedrep"}, "after"),
    "ProtoNet": ({"strategy": "protonet"}, "after"),
    "Meta-SGD, 5 steps": ({"strategy": "meta_sgd"}, "after"),
    "FOMAML, 5 steps": ({"strategy": "fomaml"}, "after"),
    "FOMAML, 1 step": ({"strategy": "fomaml"}, "after@1"),
    "FOMAML, 10 steps": ({"strategy": "fomaml"}, "after@10"),
    "MAML, 5 steps": ({"strategy": "maml"}, "after"),
    "MAML, 1 step": ({"strategy": "maml"}, "after@1"),
    "MAML, 10 steps": ({"strategy": "maml"}, "after@10"),
    "MAML without re-splitting": ({"strategy": "maml", "task.resplit": False}, "after"),
}
CONTROL: dict[str, tuple[dict[str, Any], str]] = {
    name: METHODS[name]
    for name in (
        "Local, 200 steps", "FedAvg, not adapted", "FedAvg + fine-tuning, 30 steps",
        "Reptile, 30 steps", "FOMAML, 5 steps", "MAML, 5 steps",
    )
}  # fmt: skip
REFERENCE = "FedAvg + fine-tuning, 30 steps"
COLUMNS = {
    "method": ["{name}"],
    "accuracy (95 % interval)": estimate("accuracy"),
    "per seed": ["{per_seed:.3f}"],
    f"minus {REFERENCE}, paired": estimate("difference"),
}


def nearest_neighbour(seed: int, **task: Any) -> np.ndarray:
    """Return each test device's accuracy with the label of the nearest support image."""
    (found,) = evaluate_references(Digits(seed=seed, **task), torch.float32)
    return column(found.clients, "accuracy")


def measure(methods: dict[str, tuple[dict[str, Any], str]], seeds: int, **task: Any) -> Table:
    """Run every method with every seed."""
    done: dict[str, list[dict[str, Any]]] = {}
    accuracy: dict[str, np.ndarray] = {}
    for name, (settings, stage) in methods.items():
        per_seed = []
        for seed in range(seeds):
            if stage == "nearest":
                per_seed.append(nearest_neighbour(seed, **task))
                continue
            full = settings | {"scenario": "digits", "seed": seed, "evaluation.steps": [1, 5, 10]}
            full |= {f"task.{key}": value for key, value in task.items()}
            key = repr(sorted(full.items(), key=str))
            if key not in done:
                done[key] = run_clients(full)[1]
            per_seed.append(column(done[key], f"accuracy:{stage}"))
        accuracy[name] = np.stack(per_seed)
    rows: dict[str, dict[str, Any]] = {}
    for name, values in accuracy.items():
        paired = (values - accuracy[REFERENCE]).ravel()
        rows[name] = {
            "accuracy": mean_and_interval(values.ravel()),
            "per_seed": values.mean(1).tolist(),
            "difference": None if name == REFERENCE else mean_and_interval(paired),
        }
    return Table(COLUMNS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    add_json_option(parser)
    arguments = parser.parse_args()
    tables = {
        "crossed": measure(METHODS, arguments.seeds),
        "control": measure(CONTROL, arguments.seeds, cross=0.0, skew=True),
    }
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
