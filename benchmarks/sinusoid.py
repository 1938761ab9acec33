"""The MAML paper's sinusoid, with two inner step sizes, beside the published errors.

    python -m benchmarks.sinusoid [--json FILE]

It runs both files of experiments/, 70,000 rounds each: a quarter of an hour. Medians are over the
same test tasks as the means.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import column, run_clients
from benchmarks.tables import Table, add_json_option, estimate, print_tables, write
from fedmaml.config import load_toml

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
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
    parser = argparse.ArgumentParser(description=__doc__)
    add_json_option(parser)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {
        "published (Finn et al. 2017, appendix C)": {
            f"published{steps}": error for steps, error in PUBLISHED.items()
        }
    }
    for file in FILES:
        step = load_toml(EXPERIMENTS / file)["inner.lr"]
        rows[f"{step:g}"] = measure(file)
    tables = {"errors": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
