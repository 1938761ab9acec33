"""What the exact meta-gradient costs: MAML against FOMAML, per client update.

python -m benchmarks.maml_against_fomaml

Tasks of 5 classes with 5 support and 15 query examples each, float32. Bytes are those of the
tensors that travel; operations and memory are measured as in every run (docs/costs.md); time is
processor time on one thread, the ratio of medians, MAML's and FOMAML's updates in turn.
"""

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from benchmarks.runs import print_table
from fedmaml.core import seeding
from fedmaml.core.costs import Computation, measure
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (features, network) in NETWORKS.items():
        problem = Problem(
            network,
            lambda logits, y: cross_entropy(logits, y, reduction="none"),
            (ACCURACY,),
            classes=WAYS,
        )
        task = Task(batch(features, SHOTS, "support"), batch(features, QUERIES, "query"))
        for steps in (1, 5, 10):
            inner = GradientSteps(lr=0.01, steps=steps)
            stands = [Stand(kind(inner=inner), problem, task) for kind in (MAML, FOMAML)]
            maml, fomaml = (stand.measured() for stand in stands)
            pairs = [[stand.seconds() for stand in stands] for _ in range(arguments.repeats)]
            exact, first = (statistics.median(column) for column in zip(*pairs, strict=True))
            assert (maml.bytes_down, maml.bytes_up) == (fomaml.bytes_down, fomaml.bytes_up)
            flops = [stand.computation.flops for stand in (maml, fomaml)]
            peaks = [stand.computation.peak_bytes for stand in (maml, fomaml)]
            rows.append([
                name, str(steps), f"{maml.bytes_up:,}",
                *(f"{1e-6 * value:,.1f}" for value in flops),
                f"{flops[0] / flops[1]:.2f}", *(f"{1e-6 * value:,.2f}" for value in peaks),
                f"{peaks[0] / peaks[1]:.2f}", f"{exact / first:.1f}",
            ])  # fmt: skip
    header = ["network", "k", "bytes each way, both", "MFLOP, MAML", "FOMAML", "R", "MB, MAML",
              "FOMAML", "M", "CPU time, ratio"]  # fmt: skip
    print_table(header, rows)


if __name__ == "__main__":
    main()
