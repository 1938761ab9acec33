"""fedmaml's engines as contenders: what a node runs, from the request to the exact sum."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from benchmarks.engine.rounds import LR, Contender, RefusedError, Round
from fedmaml.computing import updates
from fedmaml.computing.costs import Costs
from fedmaml.computing.engines import ENGINES, Job
from fedmaml.core import seeding
from fedmaml.core.aggregation import ExactSum
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.requests import TrainRequest
from fedmaml.core.tasks import TaskGroup, group_by_shape
from fedmaml.strategies import FOMAML, MAML, Reptile

_STRATEGIES = {"fomaml": FOMAML, "maml": MAML, "reptile": Reptile}


def contender(engine: str, round_: Round) -> Contender:
    """Return a round as fedmaml computes it with one of its engines.

    Raises:
        RefusedError: If the engine cannot compute it.
    """
    strategy = _STRATEGIES[round_.algorithm](inner=GradientSteps(lr=LR, steps=round_.steps))
    learner, state, memory = strategy.build(round_.workload.problem, seeding.generator(0, "init"))
    reason = ENGINES[engine].why_unsupported(Job(strategy, learner, state.meta))
    if reason:
        raise RefusedError(reason)
    clients = tuple(range(len(round_.tasks)))
    request = TrainRequest(1, clients, state.meta)
    memories = dict.fromkeys(clients, memory)
    costs: Costs = {}

    def tasks(chosen: Sequence[int]) -> list[TaskGroup]:
        return stacked(chosen[0], len(chosen))

    @cache  # the other contenders' data is laid out beforehand, too
    def stacked(first: int, count: int) -> list[TaskGroup]:
        chosen = range(first, first + count)
        return group_by_shape({client: round_.tasks[client] for client in chosen})

    def mean() -> Tensor:
        reply, _, _ = updates.train(
            strategy, learner, request, tasks, memories, known_costs=costs, engine=engine
        )
        update = reply.update["theta"]
        if isinstance(update, ExactSum):
            return update.mean()
        weights = torch.tensor(reply.weights, dtype=torch.float64)
        return weights @ update.double() / weights.sum()

    return mean
