"""Six trials of a new material chosen one after another, by models and by processes: `synthesis`.

    python -m benchmarks.synthesis [--seeds N] [--runs DIR] [--json FILE] [--picture FILE]

After six random trials of a material each method chooses six more, adapted anew after each:
networks try what they predict to be best, Gaussian processes what promises the largest
improvement. Beside them: the conditions that are best on average, and the floor, the best of the
candidates among which all choose. The first 50 test materials of each seed. Complete runs in DIR
are reused.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.acting.models import Model, model_of
from benchmarks.acting.pictures import draw_trials
from benchmarks.runs import finished_run, mean_and_interval
from benchmarks.tables import Table, add_json_option, estimate, print_tables, write
from fedmaml.comparison.names import display
from fedmaml.config import resolve
from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch, joined, map_batch, task_at
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.references import gaussian_process
from fedmaml.simulations.scenarios import Synthesis
from fedmaml.simulations.scenarios.synthesis import archive_process, fitted_process, pooled
from fedmaml.simulations.systems.trials import (
    Policy,
    at_random,
    expected_improvement,
    greedy,
    regrets,
)
from fedmaml.simulations.systems.yields import NOISE

NETWORKS = ("fedavg", "fedadam", "reptile", "fomaml", "maml", "meta_sgd", "ridge_head", "anp")
EXPECTED = {
    "Gaussian process, archive": "at most 0.075",
    "FedAvg": "0.19 to 0.27",
    "at random": "0.3 to 0.37",
}
"""Regret after twelve trials, that was written down before it was measured here."""
CLIENTS, FIRST, FURTHER = 50, 6, 6
_SHOWN = {f"after_{FIRST + count}": count for count in (0, 1, 3, FURTHER)}
COLUMNS = {
    "who chooses": ["{label}"],
    **{name.replace("_", " "): estimate(name) for name in _SHOWN},
    "each seed, after 12": ["{seeds:.3f}"],
    "expected": ["{expected}", ""],
}


def by_model(model: Model) -> Policy:
    """Return the policy of a run's model: what it predicts to be best, adapted to all trials."""
    dtype = model.config.make_problem().dtype

    def adapt(support: Batch) -> Predictor:
        predict = model.adapt(map_batch(lambda values: values.to(dtype), support))
        return lambda x: predict(x.to(dtype)).detach()

    return greedy(adapt)


def by_processes(scenario: Synthesis) -> Mapping[str, Policy]:
    """Return Bayesian optimisation: without an archive, with its covariance, with its mean too.

    The last is what the mean alone chooses: the same for every material.
    """
    clients = scenario.clients()["train"]
    (group,) = scenario.tasks("train", clients, 1, {})
    archives = [joined(task_at(group.tasks, row)) for row in range(len(clients))]
    training = TrainingClients("", False, {}, lambda: archives)
    fitted, archived = fitted_process(training), archive_process(training)
    alone = gaussian_process.gaussian(0.06, 0.8)
    return {
        "Gaussian process, no archive": expected_improvement(
            lambda support: gaussian_process.around_mean(support, alone, NOISE**2)
        ),
        "Gaussian process": expected_improvement(lambda _support: fitted),
        "Gaussian process, archive": expected_improvement(lambda _support: archived),
        "best on average": greedy(pooled(training)),
    }


def floor(scenario: Synthesis, clients: Sequence[int]) -> Tensor:
    """Return the regret of each material's best candidate, ``(clients,)``."""
    yields = scenario.candidates(clients).y
    best: Tensor = yields[:, :-1].amax(1)
    return 1 - best / yields[:, -1]


def row_of(label: str, by_seed: Sequence[Tensor]) -> dict[str, Any]:
    """Return a row of the table, from regrets ``(clients, 7)`` of each seed."""
    every = torch.cat(list(by_seed))
    return {
        "label": label,
        **{name: mean_and_interval(every[:, count].numpy()) for name, count in _SHOWN.items()},
        "seeds": [float(each[:, -1].mean()) for each in by_seed],
        "expected": EXPECTED.get(label),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/synthesis"), help="folder of runs")
    parser.add_argument("--picture", type=Path, help="write the picture there, as SVG")
    add_json_option(parser)
    arguments = parser.parse_args()
    found: dict[str, list[Tensor]] = {}
    for seed in range(arguments.seeds):
        scenario = Synthesis(seed=seed)
        clients = scenario.clients()["test"][:CLIENTS]
        policies = {"at random": at_random(seed), **by_processes(scenario)}
        for strategy in NETWORKS:
            config = resolve({"scenario": "synthesis", "strategy": strategy, "seed": seed})
            folder = arguments.runs / f"{strategy}-seed-{seed}"
            finished_run(config, folder)
            policies[display(strategy)] = by_model(model_of(folder))
        for label, policy in policies.items():
            found.setdefault(label, []).append(regrets(scenario, clients, policy, FURTHER).double())
            print(f"seed {seed}: {label} {float(found[label][-1][:, -1].mean()):.3f}", flush=True)
        reached = floor(scenario, clients).double()[:, None].expand(-1, FURTHER + 1)
        found.setdefault("the floor", []).append(reached)
    rows = {label: row_of(label, by_seed) for label, by_seed in found.items()}
    rows = dict(sorted(rows.items(), key=lambda item: item[1][f"after_{FIRST + FURTHER}"]["mean"]))
    tables = {"regret": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)
    if arguments.picture:
        draw_trials({each: torch.cat(found[each]).mean(0).numpy() for each in rows},
                    arguments.picture)  # fmt: skip


if __name__ == "__main__":
    main()
