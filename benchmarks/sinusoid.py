"""The MAML paper's sinusoid, with two inner step sizes, beside the published errors.

    python -m benchmarks.sinusoid [--json FILE]
    python -m benchmarks.sinusoid --one-step [--runs FOLDER] [--json FILE]

It runs both files of experiments/, 70,000 rounds each: a quarter of an hour. Medians are over the
same test tasks as the means. ``--one-step``: CAVIA and Meta-SGD, one step on ten points.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import EXPERIMENTS, column, finished_experiment, run_clients
from benchmarks.tables import Table, add_json_option, estimate, print_tables, write
from fedmaml.config import load_toml

FILES = ("sinusoid_maml.toml", "sinusoid_maml_small_step.toml")
STEPS = ("1", "5", "10")
PUBLISHED = {"1": 0.67, "5": 0.38, "10": 0.35}
"""Finn et al. 2017, appendix C: after 1, 5 and 10 gradient steps on 5 support points."""
COLUMNS = {
    "inner step, in training and test": ["{name}"],
    **{
        f"{steps} step{'s' if steps != '1' else ''}": [
            *estimate(f"after{steps}"),
            f"{{published{steps}:.2f}}",
            f"diverged at {{diverged{steps}}} of {{tasks}}",
        ]
        for steps in STEPS
    },
    "seconds": ["{seconds:.0f}"],
}

ONE_STEP = {"cavia": 0.19, "meta_sgd": 0.53}
"""Errors of Zintgraf et al. 2019 (five context parameters) and Li et al. 2017 (table 1)."""
COLUMNS_OF_ONE_STEP = {
    "strategy": ["{name}"],
    "error on new curves": estimate("error"),
    "published": ["{published:.2f}"],
    "rounds": ["{rounds:,}"],
}


def after_one_step(strategy: str, folder: Path) -> dict[str, Any]:
    """Return the mean squared error of the test tasks, beside the published one."""
    summary = finished_experiment(f"sinusoid_{strategy}", folder).summary()
    metric, (low, high) = summary["metric"], summary["metric"]["ci95"]
    error = {"mean": metric["after"], "low": low, "high": high}
    return {"error": error, "published": ONE_STEP[strategy], "rounds": summary["rounds"]}


def measure(file: str) -> dict[str, Any]:
    """Run one experiment; return mean squared errors of the test tasks, and seconds."""
    summary, clients = run_clients(load_toml(EXPERIMENTS / file))
    row: dict[str, Any] = {"tasks": len(clients), "seconds": summary["seconds"]}
    for steps in STEPS:
        after = summary["metric"]["at_steps"][steps]
        if after["mean"] is not None:
            low, high = after["ci95"]
            row[f"after{steps}"] = {"mean": after["mean"], "low": low, "high": high}
        errors = column(clients, f"{summary['metric']['name']}:after@{steps}")
        row[f"diverged{steps}"] = int(np.isinf(errors).sum())
        row[f"median{steps}"] = float(np.median(errors))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--one-step", action="store_true", help="CAVIA and Meta-SGD")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are")
    add_json_option(parser)
    arguments = parser.parse_args()
    if arguments.one_step:
        found = {strategy: after_one_step(strategy, arguments.runs) for strategy in ONE_STEP}
        report(arguments.json, {"one step": Table(COLUMNS_OF_ONE_STEP, found)})
        return
    rows: dict[str, dict[str, Any]] = {
        "published (Finn et al. 2017, appendix C)": {
            f"published{steps}": error for steps, error in PUBLISHED.items()
        }
    }
    for file in FILES:
        step = load_toml(EXPERIMENTS / file)["inner.lr"]
        rows[f"{step:g}"] = measure(file)
    report(arguments.json, {"errors": Table(COLUMNS, rows)})


def report(file: Path | None, tables: dict[str, Table]) -> None:
    """Print tables, and write them."""
    print_tables(tables)
    if file:
        write(file, tables)


if __name__ == "__main__":
    main()
