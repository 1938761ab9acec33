"""fedmaml's engines as contenders: what a node runs, from the request to the exact sum."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from benchmarks.engine.rounds import LR, Algorithm, Contender, RefusedError, Round
from fedmaml.computing import updates
from fedmaml.computing.costs import Costs
from fedmaml.computing.engines import ENGINES, Job
from fedmaml.core import seeding
from fedmaml.core.aggregation import ExactSum
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.requests import TrainRequest
from fedmaml.core.tasks import TaskGroup, group_by_shape
from fedmaml.strategies import ANIL, FOMAML, MAML, FedRep, MetaSGD, ProtoNet, Reptile
from fedmaml.strategies.base import MetaStrategy


def contender(engine: str, round_: Round) -> Contender:
    """Return a round as fedmaml computes it with one of its engines.

    Raises:
        RefusedError: If the engine cannot compute it.
    """
    strategy = _strategy(round_.algorithm, round_.steps)
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
        weights = torch.tensor(reply.weights, dtype=torch.float64)
        return torch.cat([_mean(update, weights) for update in reply.update.values()])

    return mean


def _mean(update: ExactSum | Tensor, weights: Tensor) -> Tensor:
    if isinstance(update, ExactSum):
        return update.mean()
    return weights @ update.double() / weights.sum()


def _strategy(algorithm: Algorithm, steps: int) -> MetaStrategy:
    if algorithm == "protonet":
        return ProtoNet()
    inner = GradientSteps(lr=LR, steps=steps)
    if algorithm == "fedrep":
        return FedRep(inner=inner, head=replace(inner, steps=2 * steps))
    return {"fomaml": FOMAML, "maml": MAML, "reptile": Reptile, "meta_sgd": MetaSGD, "anil": ANIL}[
        algorithm
    ](inner=inner)
