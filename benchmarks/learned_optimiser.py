"""Does the optimiser that `meta_lstm` learns beat tuned gradient descent from the same start?

    python -m benchmarks.learned_optimiser [--runs FOLDER] [--json FILE]

It runs experiments/sinusoid_meta_lstm.toml, unless its run folder has ended, and adapts its theta_0
by plain gradient descent: as many steps, the rate of a grid that is best on the validation tasks.
Differences are paired over the same unseen tasks.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.runs import finished_experiment, mean_and_interval
from benchmarks.tables import Table, add_json_option, estimate, print_tables, write
from fedmaml.computing.evaluation import evaluate
from fedmaml.config import RunConfig
from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.params import MetaParams
from fedmaml.core.requests import EvaluateRequest
from fedmaml.simulations.scenario import Split
from fedmaml.strategies import FOMAML
from fedmaml.strategies.base import MetaStrategy

RATES = [float(rate) for rate in np.geomspace(1e-4, 0.3, 22)]
COLUMNS = {
    "from the same start": ["{name}"],
    "rate": ["{rate:.4f}"],
    "error on unseen tasks": estimate("error"),
    "minus the learned optimiser, paired": estimate("difference"),
}


def errors(
    config: RunConfig, strategy: MetaStrategy, meta: MetaParams, split: Split
) -> dict[str, np.ndarray]:
    """Return the squared error of each client of a split, before and after adaptation."""
    scenario = config.make_scenario()
    start = strategy.build(config.make_problem(), seeding.generator(config.seed, "init"))
    clients = tuple(scenario.clients()[split])
    reply = evaluate(
        strategy,
        start.learner,
        EvaluateRequest(config.rounds, split, clients, meta),
        lambda some: scenario.tasks(split, some, config.rounds, {}),
        dict.fromkeys(clients, start.memory),
    )
    return {stage: np.asarray(reply.values[f"mse:{stage}"]) for stage in ("before", "after")}


def measured(folder: Path) -> dict[str, dict[str, Any]]:
    """Return a row for each way to adapt."""
    run = finished_experiment("sinusoid_meta_lstm", folder)
    config, meta = run.config(), run.load_meta()
    learned = config.make_strategy()
    steps = learned.inner.steps  # type: ignore[attr-defined]

    def descent(rate: float) -> FOMAML:
        return FOMAML(inner=GradientSteps(lr=rate, steps=steps))

    theta = {"theta": meta["theta"]}
    tuned = min(
        RATES, key=lambda rate: errors(config, descent(rate), theta, "validation")["after"].mean()
    )
    by_optimiser = errors(config, learned, meta, "test")
    by_descent = errors(config, descent(tuned), theta, "test")

    def row(found: np.ndarray) -> dict[str, Any]:
        return {
            "error": mean_and_interval(found),
            "difference": mean_and_interval(found - by_optimiser["after"]),
        }

    return {
        f"learned optimiser, {steps} steps": {"error": mean_and_interval(by_optimiser["after"])},
        f"gradient descent, {steps} steps": row(by_descent["after"]) | {"rate": tuned},
        "not adapted": row(by_descent["before"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are")
    add_json_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tables = {"errors": Table(COLUMNS, measured(arguments.runs))}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
