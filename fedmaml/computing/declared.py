"""Whether kernels compute what a strategy's verbs compute, as its ``facts`` declare.

`Facts.kernel` and `Facts.adapts` say that an update, or an adaptation, is one that engines have
written out. Who copies a strategy, changes its verbs and leaves the declaration gets the old one.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fedmaml.computing.engines import FUSED, LOOP, Engine, Job, Memories, Rows
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.tasks import TaskGroup, first_task
from fedmaml.strategies.base import adaptation_of

_TOLERANCE = 1e-6  # of the largest entry, in float64


def check_update(job: Job, engine: Engine, group: TaskGroup, memories: Memories) -> None:
    """Compare the update of one client by an engine with that of its strategy's own code.

    Args:
        job: In float64, of updates one by one.
        engine: Chosen for it.
        group: The client's task.
        memories: What it keeps.

    Raises:
        ConfigurationError: If they differ.
    """
    by_engine, by_verbs = (_updates(one, job, group, memories) for one in (engine, LOOP))
    if not _close(by_engine, by_verbs):
        raise ConfigurationError(
            f"strategy {type(job.strategy).__name__}: engine {engine.name!r} computes another "
            "update than its client_update, because its facts declare a kernel that is not its "
            "own; delete kernel=... from its facts"
        )


def check_adaptation(job: Job, group: TaskGroup, memories: Memories) -> None:
    """Compare what one client predicts by the kernel with what it predicts by ``adapt``.

    Raises:
        ConfigurationError: If they differ.
    """
    steps = adaptation_of(job.strategy)
    (by_kernel,) = FUSED.predictions(job, [group], memories, [steps.steps if steps else 0])
    task = first_task(group.tasks)
    memory = memories[group.clients[0]]
    predictor = job.strategy.adapt(job.learner, job.meta, memory, task.support)
    by_verbs = predictor(task.query.x).detach()
    if not _close([by_kernel.values.reshape(by_verbs.shape)], [by_verbs]):
        raise ConfigurationError(
            f"strategy {type(job.strategy).__name__}: the kernel of engine 'fused' predicts "
            "otherwise than its adapt, because its facts declare an adaptation that is not its "
            "own; delete adapts=... from its facts"
        )


def _updates(engine: Engine, job: Job, group: TaskGroup, memories: Memories) -> list[Tensor]:
    parts = engine.compute(job, [group], memories)
    return tree_leaves([part.results.update for part in parts if isinstance(part, Rows)])


def _close(found: Iterable[Tensor], expected: Iterable[Tensor]) -> bool:
    return all(
        torch.allclose(one, other, rtol=0, atol=_TOLERANCE * max(float(other.abs().max()), 1e-12))
        for one, other in zip(found, expected, strict=True)
        if other.numel() and bool(other.isfinite().all())
    )
