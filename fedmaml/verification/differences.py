"""Central finite differences of an objective over meta-parameters."""

from collections.abc import Callable

import torch

from fedmaml.core.params import MetaParams
from fedmaml.core.tasks import Task
from fedmaml.strategies.base import Initialised, MetaStrategy

Objective = Callable[[MetaStrategy, Initialised, MetaParams, Task], float]


def after_adaptation(
    strategy: MetaStrategy, start: Initialised, meta: MetaParams, task: Task
) -> float:
    """Return the query loss after adaptation."""
    predictor = strategy.adapt(start.learner, meta, start.memory, task.support)
    return float(start.learner.query_loss(predictor, task.query))


def finite_differences(
    strategy: MetaStrategy,
    start: Initialised,
    meta: MetaParams,
    task: Task,
    objective: tuple[Objective, tuple[str, ...]] | None = None,
    step: float = 1e-5,
) -> MetaParams:
    """Differentiate an objective by moving every meta-parameter.

    Central differences: (f(x + h) - f(x - h)) / 2h, error O(h^2) + O(1e-16 / h).

    Args:
        strategy: Whose objective it is.
        start: What it built.
        meta: Point of differentiation.
        task: One client's.
        objective: The objective and the groups it is differentiated in; None: the query loss after
            adaptation, in all groups.
        step: h.
    """
    value_at, groups = objective or (after_adaptation, tuple(meta))
    gradient: MetaParams = {}
    for group in groups:
        params = meta[group]
        gradient[group] = {}
        for name, value in params.items():
            slope = torch.zeros_like(value)
            for index in range(value.numel()):
                ends = []
                for sign in (1, -1):
                    moved = value.clone()
                    moved.view(-1)[index] += sign * step
                    point = meta | {group: params | {name: moved}}
                    ends.append(value_at(strategy, start, point, task))
                slope.view(-1)[index] = (ends[0] - ends[1]) / (2 * step)
            gradient[group][name] = slope
    return gradient
