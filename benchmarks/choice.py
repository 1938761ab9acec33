"""Is `auto` the fastest engine? 30 cases over steps, width, clients and strategies.

python -m benchmarks.choice [--turns 5] [--json FILE]

Every engine that takes a case computes it, but `compiled`, which "auto" leaves out because it
compiles for seconds, and `loop`. Networks are 64-h-h-10 with 16 support and 16 query examples. One
thread; engines take turns, CPU time, medians, in microseconds per client.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.engine.workloads import Workload, perceptron
from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.computing import updates
from fedmaml.computing.costs import Costs
from fedmaml.computing.engines import ENGINES, Job, plan
from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.requests import TrainRequest
from fedmaml.core.tasks import TaskGroup, group_by_shape
from fedmaml.strategies import CATALOGUE

LEFT_OUT = ("compiled", "loop")
CASES = [
    *(("fomaml", entries, steps, clients) for entries, steps, clients in (
        (1e3, 1, 64), (1e3, 5, 10), (1e4, 5, 64), (2e4, 1, 32), (2e4, 5, 32), (4e4, 5, 32),
        (6e4, 1, 32), (6e4, 5, 16), (1e5, 5, 16), (2e5, 5, 16),
    )),
    *(("maml", entries, steps, clients) for entries, steps, clients in (
        (1e3, 1, 10), (1e3, 5, 64), (1e4, 5, 32), (2e4, 5, 16), (4e4, 1, 32), (4e4, 5, 16),
        (6e4, 5, 8), (1e5, 1, 8),
    )),
    *(("reptile", entries, steps, clients) for entries, steps, clients in (
        (1e4, 5, 64), (4e4, 5, 32), (1e5, 5, 16),
    )),
    *(("meta_sgd", entries, steps, clients) for entries, steps, clients in (
        (1e3, 5, 64), (2e4, 5, 16), (4e4, 1, 16),
    )),
    *((name, 1e3, 5, 64) for name in (
        "boil", "cavia", "lslr", "per_fedavg_fo", "pfedme", "ditto",
    )),
]  # fmt: skip
COLUMNS = {
    "strategy": ["{strategy}"],
    "parameters": ["{parameters:,}"],
    "steps": ["{steps}"],
    "clients": ["{clients}"],
    "auto": ["{auto}"],
    **{name: [f"{{{name}:~3}}"] for name in ENGINES if name not in LEFT_OUT},
    "auto over the fastest": ["{ratio:.2f}"],
}


def requests(
    workload: Workload,
    name: str,
    steps: int,
    clients: int,
    left_out: Sequence[str] = LEFT_OUT,
) -> tuple[str, dict[str, Callable[[], Any]]]:
    """Return the engine of "auto", and a request to a node for every engine that takes it."""
    strategy = CATALOGUE[name](inner=GradientSteps(lr=0.01, steps=steps))  # type: ignore[call-arg]
    start = strategy.build(workload.problem, seeding.generator(0, "init"))
    everyone, job = tuple(range(clients)), Job(strategy, start.learner, start.state.meta)
    whole = group_by_shape(dict(enumerate(workload.tasks(clients))))
    memories = dict.fromkeys(everyone, start.memory)
    costs: Costs = {}
    request = TrainRequest(1, everyone, start.state.meta)

    def tasks(chosen: Sequence[int]) -> list[TaskGroup]:
        group = whole[0]
        some = slice(chosen[0], chosen[-1] + 1)
        parts = (type(batch)(batch.x[some], batch.y[some]) for batch in group.tasks)
        return [TaskGroup(tuple(chosen), type(group.tasks)(*parts))]

    def compute(engine: str) -> Callable[[], Any]:
        return lambda: updates.train(
            strategy, start.learner, request, tasks, memories, 0, costs, engine
        )

    taking = {
        name: compute(name) for name, engine in ENGINES.items()
        if name not in left_out and not engine.why_unsupported(job)
    }  # fmt: skip
    return plan("auto", job).engine.name, taking


def measured(
    contenders: dict[str, Callable[[], Any]], turns: int, clients: int
) -> dict[str, float]:
    """Return the microseconds of CPU per client of each."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, compute in contenders.items():
            started = time.process_time()
            compute()
            if turn:  # the first one warms up
                taken[name].append(time.process_time() - started)
    return {name: 1e6 * statistics.median(some) / clients for name, some in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    add_json_option(parser)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    for name, entries, steps, clients in CASES:
        workload = perceptron(entries)
        auto, contenders = requests(workload, name, steps, clients)
        times = measured(contenders, chosen.turns, clients)
        parameters = sum(value.numel() for value in workload.theta().values())
        row = {"strategy": name, "parameters": parameters, "steps": steps, "clients": clients}
        ratio = times[auto] / min(times.values())
        rows[f"{name}, {parameters}, {steps}"] = row | {"auto": auto, "ratio": ratio} | times
        print(name, parameters, steps, clients, auto, f"{ratio:.2f}", flush=True)
    tables = {"engines": Table(COLUMNS, rows)}
    print_tables(tables)
    if chosen.json:
        write(chosen.json, tables)


if __name__ == "__main__":
    main()
