"""Omniglot, 5-way 1-shot, beside the published accuracies, on a small budget.

    python -m benchmarks.omniglot [STRATEGY ...] [--seeds SEED ...] [--runs FOLDER] [--json FILE]

It runs the files ``experiments/omniglot_*.toml``, and keeps the run folders: what has ended is read
again and not run again. Strategies and seeds that were not named stay in the file as they are. The
data folder is that of the environment variable FEDMAML_DATA.
"""

import argparse
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def of_seeds(estimates: Collection[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of independent estimates, and its interval from theirs."""

    def away(bound: str) -> float:
        return math.hypot(*(each[bound] - each["mean"] for each in estimates)) / len(estimates)

    mean = sum(each["mean"] for each in estimates) / len(estimates)
    return {"mean": mean, "low": mean - away("low"), "high": mean + away("high")}


def measure(
    strategy: str, seeds: Sequence[int], folder: Path, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the accuracy of each seed's test clients beside those before, and what it cost."""
    runs = {str(seed): finished_experiment(f"omniglot_{strategy}", folder, seed) for seed in seeds}
    now = {
        seed: mean_and_interval(column(run.clients(), "accuracy:after"))
        for seed, run in runs.items()
    }
    by_seed = dict(sorted({**before.get("by_seed", {}), **now}.items()))
    run = runs[str(seeds[-1])]
    config, total = run.config(), run.summary()["cost"]["totals"]
    return {
        "accuracy": of_seeds(by_seed.values()),
        "by_seed": by_seed,
        "seeds": [estimate["mean"] for estimate in by_seed.values()],
        "published": PUBLISHED[strategy],
        "rounds": config.rounds,
        "clients": config.clients,
        "tera": total["flops"] / 1e12,
        "minutes": total["seconds_clients"] / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("strategies", nargs="*", metavar="STRATEGY", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="SEED")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are")
    add_json_option(parser)
    arguments = parser.parse_args()
    found = tables_in(arguments.json).get("accuracy", Table(COLUMNS, {})).rows
    for strategy in arguments.strategies or PUBLISHED:
        before = found.get(strategy, {})
        row = measure(strategy, arguments.seeds, arguments.runs, before)
        found = {**found, strategy: row}
        in_order = {name: found[name] for name in PUBLISHED if name in found}
        tables = {"accuracy": Table(COLUMNS, in_order)}
        if arguments.json:
            write(arguments.json, tables, command="python -m benchmarks.omniglot")
    print_tables(tables)


if __name__ == "__main__":
    main()
