"""What learned starts reach by gradient steps, on episodes of held-out clients.

    python -m benchmarks.acting.gates [--runs DIR] [--seeds N] [--json FILE]

`navigation` is trained for 250 rounds, the others as their recipes say. Complete runs in DIR are
reused. The published row of point navigation is that of Finn, Abbeel, Levine, ICML 2017, figure 5.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import finished_run
from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.config import resolve

CASES: dict[str, dict[str, Any]] = {
    "navigation": {"strategy": "maml", "rounds": 250},
    "half_circle": {"strategy": "maml"},
    "arm": {"strategy": "meta_sgd"},
}
STEPS = ("0", "1", "2", "3", "10")
COLUMNS = {
    "scenario": ["{name}"],
    "strategy": ["{strategy}"],
    "metric": ["{metric}"],
    **{f"{steps} steps": [f"{{at_{steps}:~3}}", ""] for steps in STEPS},
    "1 step, per seed": ["{per_seed:~3}"],
}


def reached(metric: Mapping[str, Any]) -> dict[str, float]:
    """Return the headline metric of test clients by number of steps."""
    further = {steps: each["mean"] for steps, each in metric.get("at_steps", {}).items()}
    return {"0": metric["before"], "1": metric["after"], **further}


def row_of(scenario: str, seeds: int, folder: Path) -> dict[str, Any]:
    """Return the mean over seeds; runs that are not there are made."""
    found = []
    for seed in range(seeds):
        config = resolve({"scenario": scenario, "seed": seed, **CASES[scenario]})
        out = folder / scenario / config.strategy / f"seed{seed}"
        metric = finished_run(config, out).summary()["metric"]
        found.append(reached(metric))
    unit = "" if metric["unit"] == "1" else f" [{metric['unit']}]"
    means = {f"at_{steps}": float(np.mean([each[steps] for each in found])) for steps in found[0]}
    return {
        "strategy": config.strategy, "metric": f"{metric['name']}{unit}", **means,
        "per_seed": [each["1"] for each in found],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/acting"), help="folder of runs")
    parser.add_argument("--seeds", type=int, default=3)
    add_json_option(parser)
    arguments = parser.parse_args()
    rows = {name: row_of(name, arguments.seeds, arguments.runs) for name in CASES}
    tables = {"steps": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
