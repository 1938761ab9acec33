"""Omniglot, 5-way 1-shot, beside the published accuracies, on a small budget.

    python -m benchmarks.omniglot [--runs FOLDER] [--json FILE]

It runs the files ``experiments/omniglot_*.toml``, a quarter of an hour each where nothing else
runs, and keeps the run folders: what has ended is read again and not run again. The data folder is
that of the environment variable FEDMAML_DATA.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.tables import Table, add_json_option, estimate, print_tables, write
from fedmaml.config import load_toml, resolve
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
PUBLISHED = {"protonet": 0.988, "matchingnet": 0.981}
"""Snell et al. 2017 and Vinyals et al. 2016: 64 filters, random splits of characters."""
COLUMNS = {
    "strategy": ["{name}"],
    "accuracy on new characters": estimate("accuracy"),
    "published": ["{published:.3f}"],
    "rounds": ["{rounds:,}"],
    "clients in a round": ["{clients}"],
    "TFLOP of all clients": ["{tera:.0f}"],
}


def measure(strategy: str, folder: Path) -> dict[str, Any]:
    """Return the test clients' accuracy and what the training cost."""
    settings = load_toml(EXPERIMENTS / f"omniglot_{strategy}.toml")
    run = RunDirectory(folder / f"omniglot_{strategy}")
    finished = (run.path / "summary.json").exists()
    summary = run.summary() if finished else execute(resolve(settings), run.path)
    metric, (low, high) = summary["metric"], summary["metric"]["ci95"]
    return {
        "accuracy": {"mean": metric["after"], "low": low, "high": high},
        "published": PUBLISHED[strategy],
        "rounds": settings["rounds"],
        "clients": settings["clients"],
        "tera": summary["cost"]["totals"]["flops"] / 1e12,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are")
    add_json_option(parser)
    arguments = parser.parse_args()
    rows = {strategy: measure(strategy, arguments.runs) for strategy in PUBLISHED}
    tables = {"accuracy": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
