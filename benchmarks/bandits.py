"""What recurrent networks reach on bandits of five arms, beside the optimum and rules.

    python -m benchmarks.bandits [CASE ...] [--runs DIR] [--seeds N] [--json FILE]

Strategy rl2 with the network that treats all arms alike and with the plain one, at 10 and at 100
pulls. At 100 pulls trials begin with 20, and grow to 100 by two fifths of the training. Each model
is evaluated on `TRIALS` new bandits, the same for all: it draws its arms as in training, or pulls
the arm of the largest logit. Complete runs in DIR are reused, so after Ctrl-C the same command goes
on.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.acting.episodes import bandits_of, rewards_of_rules
from benchmarks.acting.models import model_of
from benchmarks.tables import Table, add_json_option, estimate, print_tables, write
from fedmaml.comparison.reuse import is_complete
from fedmaml.config import resolve
from fedmaml.core.tasks import Task
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.environments.bandits import bayes_value

ARMS, TRIALS = 5, 20_000
COLUMNS = {
    "pulls": ["{pulls}"],
    "policy": ["{label}"],
    "reward of a trial, drawn": [*estimate("drawn", ".2f"), ""],
    "of the largest logit": [*estimate("greedy", ".2f"), ""],
    "per seed": ["{per_seed:.2f}", ""],
    "pulls in training": ["{environment_steps:,.0f}", ""],
    "CPU seconds of a run": ["{cpu_seconds:,.0f}", ""],
}


@dataclass(frozen=True)
class Case:
    """A network and a length of trials.

    Attributes:
        network: As in the scenario.
        pulls: Of a trial.
        rounds: Of training.
        settings: Further ones.
    """

    network: str
    pulls: int
    rounds: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.network}-{self.pulls}"


def _long(rounds: int) -> dict[str, Any]:
    return {
        "outer.lr": 0.005, "task.first": 20, "task.grown": 2 * rounds // 5,
        "task.test_clients": 20,
    }  # fmt: skip


CASES = (
    Case("equivariant", 10, 600, {}),
    Case("plain", 10, 600, {"clients": 64, "outer.lr": 0.01}),
    Case("equivariant", 100, 600, _long(600)),
    Case("plain", 100, 250, _long(250)),
)


def trained(case: Case, seed: int, folder: Path) -> tuple[Path, float]:
    """Return the run of a case and its CPU seconds; it is made if it is not there."""
    config = resolve(
        {"scenario": "bandits", "strategy": "rl2", "seed": seed, "rounds": case.rounds},
        {"task.network": case.network, "task.pulls": case.pulls, **case.settings},
    )
    out, took = folder / case.name / f"seed{seed}", folder / case.name / f"seed{seed}.json"
    if not is_complete(config, out, force=False):
        begin = time.process_time()
        execute(config, out, force=True)
        took.write_text(json.dumps(time.process_time() - begin))
    return out, float(json.loads(took.read_text()))


def evaluated(case: Case, seeds: int, folder: Path) -> dict[str, Any]:
    """Return what models of all seeds earn on the same new bandits."""
    x = bandits_of(case.pulls, ARMS, TRIALS)
    found: dict[str, list[np.ndarray]] = {"drawn": [], "greedy": []}
    spent, seconds = [], []
    for seed in range(seeds):
        out, cpu = trained(case, seed, folder)
        model = model_of(out)
        for name, value in (("drawn", 0.0), ("greedy", 1.0)):
            of_trials = {**x.x, "greedy": torch.full((TRIALS,), value, dtype=torch.float64)}
            batch = x._replace(x=of_trials)
            rewards = model.plays(Task(batch, batch), 0)["rewards"]
            found[name].append(rewards.sum(-1).double().numpy())
        counted = RunDirectory(out).summary()["cost"]["totals"]["counters"]["environment_steps"]
        spent.append(counted["support"] + counted["query"])
        seconds.append(cpu)
    label = f"RL^2, {case.network} network"
    means = [float(values.mean()) for values in found["greedy"]]
    return {
        "pulls": case.pulls, "label": label, "per_seed": means,
        "environment_steps": float(np.mean(spent)), "cpu_seconds": float(np.mean(seconds)),
        **{name: _mean(np.mean(values, 0)) for name, values in found.items()},
    }  # fmt: skip


def rules(pulls: int) -> dict[str, dict[str, Any]]:
    """Return what rules earn on the same bandits, and the optimum where it can be computed."""
    x = bandits_of(pulls, ARMS, TRIALS)
    rows: dict[str, dict[str, Any]] = {}
    for name, rewards in rewards_of_rules(x, pulls).items():
        values = rewards.sum(-1).double().numpy()
        rows[f"{name}-{pulls}"] = {"pulls": pulls, "label": name, "drawn": _mean(values)}
    if pulls <= 10:  # dynamic programming over all counts
        value = {"mean": bayes_value(ARMS, pulls)}
        rows[f"optimum-{pulls}"] = {"pulls": pulls, "label": "optimum, exact", "drawn": value}
    return rows


def _mean(values: np.ndarray) -> dict[str, float]:
    mean, error = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
    return {"mean": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [case.name for case in CASES]
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(names)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/bandits"), help="folder of runs")
    parser.add_argument("--seeds", type=int, default=3)
    add_json_option(parser)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    chosen = [case for case in CASES if case.name in (arguments.cases or names)]
    for pulls in sorted({case.pulls for case in chosen}):
        for case in [case for case in chosen if case.pulls == pulls]:
            rows[case.name] = evaluated(case, arguments.seeds, arguments.runs)
            print_tables({"bandits": Table(COLUMNS, rows)})
        rows |= rules(pulls)
    tables = {"bandits": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
