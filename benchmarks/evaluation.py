"""What evaluating a client costs, over training it with the same steps.

python -m benchmarks.evaluation [--clients 1000] [--seconds 4] [--json FILE]

Both are whole requests to a node, whose tasks are made beforehand: updates and their exact sum,
and metrics before and after adaptation. A second table evaluates 0 to 20 steps, over one adaptation
of 20 steps. One thread; they take turns, CPU time, medians.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.engine.timing import interleaved
from benchmarks.engine.workloads import Workload, hospital, sinusoid
from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.computing import evaluation, updates
from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.requests import EvaluateRequest, TrainRequest
from fedmaml.core.tasks import TaskGroup, group_by_shape
from fedmaml.strategies import CATALOGUE
from fedmaml.strategies.base import MetaStrategy

LR, STEPS, MAX_STEPS = 0.01, 5, 20
WORKLOADS = {"W1": sinusoid, "W2": hospital}
COLUMNS = {
    "network": ["{network}"],
    "strategy": ["{strategy}"],
    "training, us": ["{training:~3}"],
    "evaluation, us": ["{evaluation:~3}"],
    "ratio": ["{ratio:.2f}"],
    "by vmap, us": ["{by_vmap:~3}"],
}
COLUMNS_OF_STAGES = {
    "network": ["{network}"],
    "20 steps, us": ["{one:~3}"],
    "0 to 20 steps, us": ["{stages:~3}"],
    "ratio": ["{ratio:.2f}"],
    "1, 2 and 5 shots besides, us": ["{shots:~3}"],
}


def requests(
    workload: Workload, name: str, clients: int, steps: int
) -> dict[str, Callable[[], Any]]:
    """Return requests to a node, as functions."""
    strategy: MetaStrategy = CATALOGUE[name]()
    for own in ("inner", "adaptation"):
        if hasattr(strategy, own):
            strategy = replace(strategy, **{own: GradientSteps(lr=LR, steps=steps)})  # type: ignore[type-var]
    start = strategy.build(workload.problem, seeding.generator(0, "init"))
    everyone, meta = tuple(range(clients)), start.state.meta
    whole = group_by_shape(dict(enumerate(workload.tasks(clients))))
    memories = dict.fromkeys(everyone, start.memory)
    known: dict[str, Any] = {}

    def tasks(_: Sequence[int]) -> list[TaskGroup]:
        return whole

    def train() -> Any:
        request = TrainRequest(1, everyone, meta)
        return updates.train(
            strategy, start.learner, request, tasks, memories, clients, known, "auto"
        )

    def evaluate(
        engine: str = "auto", steps: tuple[int, ...] = (), shots: tuple[int, ...] = ()
    ) -> Any:
        request = EvaluateRequest(1, "test", everyone, meta, steps, shots)
        return evaluation.evaluate(
            strategy, start.learner, request, tasks, memories, clients, engine=engine
        )

    return {
        "training": train,
        "evaluation": evaluate,
        "by vmap": lambda: evaluate("vmap"),
        "stages": lambda: evaluate(steps=tuple(range(MAX_STEPS + 1))),
        "shots": lambda: evaluate(shots=(1, 2, 5)),
    }


def timed(
    contenders: dict[str, Callable[[], Any]], names: Sequence[str], clients: int, seconds: float
) -> list[float]:
    """Return the microseconds of CPU per client."""
    chosen = {name: contenders[name] for name in names}
    for compute in chosen.values():
        compute()
    found, _ = interleaved(chosen, seconds)
    return [1e6 * found[name].processor / clients for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row")
    add_json_option(parser)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    stages: dict[str, dict[str, Any]] = {}
    for network, workload in WORKLOADS.items():
        for name in ("fomaml", "maml", "reptile", "meta_sgd", "fedrep"):
            contenders = requests(workload(), name, chosen.clients, STEPS)
            names = ("training", "evaluation", "by vmap")
            training, evaluated, by_vmap = timed(contenders, names, chosen.clients, chosen.seconds)
            rows[f"{network}, {name}"] = {
                "network": network, "strategy": name, "training": training,
                "evaluation": evaluated, "ratio": evaluated / training, "by_vmap": by_vmap,
            }  # fmt: skip
        contenders = requests(workload(), "fomaml", chosen.clients, MAX_STEPS)
        names = ("evaluation", "stages", "shots")
        one, many, shots = timed(contenders, names, chosen.clients, chosen.seconds)
        stages[network] = {
            "network": network, "one": one, "stages": many, "ratio": many / one, "shots": shots,
        }  # fmt: skip
    tables = {
        "training": Table(COLUMNS, rows),
        "stages": Table(COLUMNS_OF_STAGES, stages),
    }
    print_tables(tables)
    if chosen.json:
        write(chosen.json, tables)


if __name__ == "__main__":
    main()
