"""fedmaml's engines as contenders: the same code that a node runs, from request to exact sum."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.engine.rounds import LR, Contender, Round
from fedmaml.client import work
from fedmaml.core import seeding
from fedmaml.core.aggregation import ExactSum
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.tasks import TaskGroup, group_by_shape
from fedmaml.messages.train import TrainRequest
from fedmaml.strategies import FOMAML, MAML, Reptile

ENGINES = {"loop": 1, "vmap": 1024}
"""Name -> clients of a batch."""
STRATEGIES = {"fomaml": FOMAML, "maml": MAML, "reptile": Reptile}


def contender(engine: str, round_: Round) -> Contender:
    """Return a round as fedmaml computes it with one of its engines.

    Raises:
        RefusedError: If the engine cannot compute it.
    """
    strategy = STRATEGIES[round_.algorithm](inner=GradientSteps(lr=LR, steps=round_.steps))
    start = strategy.build(round_.workload.problem, seeding.generator(0, "init"))
    clients = tuple(range(len(round_.tasks)))
    request = TrainRequest(1, clients, start.state.meta)
    memories = dict.fromkeys(clients, start.memory)
    costs: dict = {}

    def tasks(chosen: Sequence[int]) -> list[TaskGroup]:
        return group_by_shape({client: round_.tasks[client] for client in chosen})

    def mean() -> Tensor:
        reply, _ = work.train(
            strategy, start.learner, request, tasks, memories, ENGINES[engine], costs
        )
        update = reply.update["theta"]
        if isinstance(update, ExactSum):
            return update.mean()
        weights = torch.tensor(reply.weights, dtype=torch.float64)
        return weights @ update.double() / weights.sum()

    return mean
