"""Omniglot, 5-way 1-shot, beside the published accuracies, on a small budget.

    python -m benchmarks.omniglot [STRATEGY ...] [--seeds N] [--runs FOLDER] [--json FILE]

It runs the files ``experiments/omniglot_*.toml``, and keeps the run folders: what has ended is read
again and not run again. Strategies that were not named stay in the file as they are. The data
folder is that of the environment variable FEDMAML_DATA.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import column, finished_experiment, mean_and_interval
from benchmarks.tables import Table, add_json_option, estimate, print_tables, tables_in, write

PUBLISHED = {
    "protonet": 0.988,
    "matchingnet": 0.981,
    "siamese": 0.973,
    "snail": 0.9907,
    "mann": 0.828,
    "maml": 0.987,
    "fomaml": 0.983,
    "reptile": 0.9768,
    "meta_sgd": 0.9953,
    "anil": None,
}
"""Accuracy of Snell et al. 2017, Vinyals et al. 2016 (and of siamese networks there), Mishra et al.
2018, Santoro et al. 2016 (without convolutions), Finn et al. 2017, Nichol et al. 2018 (FOMAML,
Reptile with transduction) and Li et al. 2017; of ANIL there is none for one shot of five."""
COLUMNS = {
    "strategy": ["{name}"],
    "accuracy on new characters": estimate("accuracy"),
    "each seed": ["{seeds:.3f}", ""],
    "published": ["{published:.3f}"],
    "rounds": ["{rounds:,}"],
    "clients in a round": ["{clients}"],
    "TFLOP of all clients": ["{tera:.0f}"],
    "CPU, min": ["{minutes:.0f}"],
}


def measure(strategy: str, seeds: int, folder: Path) -> dict[str, Any]:
    """Return the accuracy of all seeds' test clients, and what a training cost."""
    runs = [finished_experiment(f"omniglot_{strategy}", folder, seed) for seed in range(seeds)]
    config, summaries = runs[0].config(), [run.summary() for run in runs]
    totals = [summary["cost"]["totals"] for summary in summaries]
    clients = np.concatenate([column(run.clients(), "accuracy:after") for run in runs])
    return {
        "accuracy": mean_and_interval(clients),
        "seeds": [summary["metric"]["after"] for summary in summaries],
        "published": PUBLISHED[strategy],
        "rounds": config.rounds,
        "clients": config.clients,
        "tera": totals[0]["flops"] / 1e12,
        "minutes": float(np.mean([each["seconds_clients"] for each in totals])) / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("strategies", nargs="*", metavar="STRATEGY", help="default: all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are")
    add_json_option(parser)
    arguments = parser.parse_args()
    found = tables_in(arguments.json).get("accuracy", Table(COLUMNS, {})).rows
    for strategy in arguments.strategies or PUBLISHED:
        found = {**found, strategy: measure(strategy, arguments.seeds, arguments.runs)}
        in_order = {name: found[name] for name in PUBLISHED if name in found}
        tables = {"accuracy": Table(COLUMNS, in_order)}
        if arguments.json:
            of_all = f"python -m benchmarks.omniglot --seeds {arguments.seeds}"
            write(arguments.json, tables, command=of_all)
    print_tables(tables)


if __name__ == "__main__":
    main()
