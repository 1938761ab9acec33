"""What the exact meta-gradient costs: MAML against FOMAML, per client update.

python -m benchmarks.maml_against_fomaml [--json FILE]

Tasks of 5 classes with 5 support and 15 query examples each, float32. Bytes are those of the
tensors that travel; operations and memory are measured as in every run (docs/costs.md); time is
processor time on one thread, the ratio of medians, MAML's and FOMAML's updates in turn.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.core import seeding
from fedmaml.core.costs import Computation
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.meter import measure
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import MLP, Conv4
from fedmaml.core.params import MetaParams, count_bytes
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies import FOMAML, MAML
from fedmaml.strategies.base import ClientUpdate, MetaStrategy

WAYS, SHOTS, QUERIES = 5, 5, 15
NETWORKS = {
    "MLP 784-256-128-64-5": ((784,), lambda: MLP((784, 256, 128, 64, WAYS))),
    "Conv4, 28x28, 64 filters": ((1, 28, 28), lambda: Conv4(1, 28, WAYS, filters=64)),
}


STEPS = (1, 5, 10)
COLUMNS = {
    "network": ["{network}"],
    "k": ["{steps}"],
    "bytes each way, both": ["{bytes:,}"],
    "MFLOP, MAML": ["{mflop_maml:,.1f}"],
    "FOMAML": ["{mflop_fomaml:,.1f}"],
    "R": ["{operations:.2f}"],
    "MB, MAML": ["{megabytes_maml:,.2f}"],
    "MB, FOMAML": ["{megabytes_fomaml:,.2f}"],
    "M": ["{memory:.2f}"],
    "CPU time, ratio": ["{time:.1f}"],
}
RATIOS = {
    "network": ["{name}"],
    f"operations, k = {', '.join(map(str, STEPS))}": [
        ", ".join(f"{{k{steps}[operations]:.2f}}" for steps in STEPS)
    ],
    f"memory, k = {', '.join(map(str, STEPS))}": [
        ", ".join(f"{{k{steps}[memory]:.2f}}" for steps in STEPS)
    ],
}


@dataclass(frozen=True)
class Measured:
    """One strategy's update.

    Attributes:
        computation: Operations and memory.
        bytes_down: Of the meta-parameters.
        bytes_up: Of the update.
    """

    computation: Computation
    bytes_down: int
    bytes_up: int


class Stand:
    """A strategy, ready to update."""

    def __init__(self, strategy: MetaStrategy, problem: Problem, task: Task) -> None:
        start = strategy.build(problem, seeding.generator(0))
        self.strategy, self.learner, self.task = strategy, start.learner, task
        self.meta: MetaParams = start.state.meta

    def update(self, meta: MetaParams, task: Task) -> ClientUpdate:
        """Compute what a client sends."""
        return self.strategy.client_update(self.learner, meta, {}, task)

    def measured(self) -> Measured:
        """Count an update."""
        computation = measure(self.update, self.meta, self.task)
        sent = self.update(self.meta, self.task).update
        return Measured(computation, count_bytes(self.meta), count_bytes(sent))

    def seconds(self) -> float:
        """Time an update."""
        started = time.process_time()
        self.update(self.meta, self.task)
        return time.process_time() - started


def batch(features: tuple[int, ...], per_class: int, name: str) -> Batch:
    """Return random examples: cost does not depend on values."""
    examples = WAYS * per_class
    x = seeding.normal(seeding.key(0, name), range(1), examples, *features)[0].float()
    return Batch(x, torch.arange(examples) % WAYS)


def compared(name: str, steps: int, repeats: int) -> dict[str, Any]:
    """Return what an update of MAML and one of FOMAML cost, and MAML's over FOMAML's."""
    features, network = NETWORKS[name]
    problem = Problem(
        network,
        lambda logits, y: cross_entropy(logits, y, reduction="none"),
        (ACCURACY,),
        classes=WAYS,
    )
    task = Task(batch(features, SHOTS, "support"), batch(features, QUERIES, "query"))
    inner = GradientSteps(lr=0.01, steps=steps)
    stands = [Stand(kind(inner=inner), problem, task) for kind in (MAML, FOMAML)]
    maml, fomaml = (stand.measured() for stand in stands)
    assert (maml.bytes_down, maml.bytes_up) == (fomaml.bytes_down, fomaml.bytes_up)
    pairs = [[stand.seconds() for stand in stands] for _ in range(repeats)]
    exact, first = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "network": name,
        "steps": steps,
        "bytes": maml.bytes_up,
        "mflop_maml": 1e-6 * maml.computation.flops,
        "mflop_fomaml": 1e-6 * fomaml.computation.flops,
        "operations": maml.computation.flops / fomaml.computation.flops,
        "megabytes_maml": 1e-6 * maml.computation.peak_bytes,
        "megabytes_fomaml": 1e-6 * fomaml.computation.peak_bytes,
        "memory": maml.computation.peak_bytes / fomaml.computation.peak_bytes,
        "time": exact / first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    add_json_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    by_network = {
        name: {f"k{steps}": compared(name, steps, arguments.repeats) for steps in STEPS}
        for name in NETWORKS
    }
    rows = {
        f"{name}, {steps}": row for name, each in by_network.items() for steps, row in each.items()
    }
    tables = {"costs": Table(COLUMNS, rows), "ratios": Table(RATIOS, by_network)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
