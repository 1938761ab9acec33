"""Cost of a client's update and of its evaluation: measured once per shape of task, then cached.

A measurement runs the computation once more, alone. So its result is cached: in this process and,
for updates, in the node's Flower context, since a deployment answers each message in a new process.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch import Tensor

from fedmaml.computing.engines import Job, Memories
from fedmaml.core.costs import Computation
from fedmaml.core.failures import contained
from fedmaml.core.learner import Problem
from fedmaml.core.meter import measure
from fedmaml.core.params import MetaParams, Params, device_of, to_device
from fedmaml.core.tasks import Task, TaskGroup, first_task
from fedmaml.core.trees import named
from fedmaml.strategies.base import ClientUpdate, MetaStrategy

logger = logging.getLogger("fedmaml")

Costs = dict[str, Computation]
"""Strategy and shapes, as a word -> cost of an update of that shape."""

Evaluate = Callable[[Task, Params], Any]
"""A client's task and memory -> its metrics."""

_MAX_REMEMBERED = 4096
_process: dict[tuple[str, int], tuple[Problem, Computation]] = {}
"""By key and identity of the problem; the problem is kept so that its identity stays its own."""


def costs_of_updates(
    job: Job, memories: Memories, groups: Sequence[TaskGroup], known: Costs
) -> list[Computation | None]:
    """Return the cost of one update of each group, alone; None where it cannot be measured.

    Args:
        job: Strategy, learner and meta-parameters.
        memories: Client -> what it keeps.
        groups: Tasks of equal shape, of which the first is measured.
        known: Earlier measurements; new ones are added.
    """
    costs, job_word = [], _job_word(job)
    for group in groups:
        memory = memories[group.clients[0]]
        key = _key(job_word, memory, group)
        costs.append(_once(key, job.learner.problem, known, _measured, job, memory, group))
    return costs


def cost_of_evaluation(
    job: Job,
    stages: Mapping[str, MetaStrategy],
    evaluate: Evaluate,
    memories: Memories,
    groups: Sequence[TaskGroup],
) -> list[Computation | None]:
    """Return the cost of evaluating one client of each group; None where it cannot be measured.

    Args:
        job: Strategy, learner and meta-parameters.
        stages: What is evaluated, as `fedmaml.computing.evaluation` names it.
        evaluate: Evaluates one client.
        memories: Client -> what it keeps.
        groups: Tasks of equal shape, of which the first is measured.
    """
    costs, word = [], f"{_job_word(job)}|{dict(stages)!r}"
    for group in groups:
        memory = memories[group.clients[0]]
        key, problem = _key(word, memory, group), job.learner.problem
        costs.append(_once(key, problem, {}, _measured_evaluation, job, evaluate, memory, group))
    return costs


def _once(
    key: str,
    problem: Problem,
    known: Costs,
    measured: Callable[..., Computation],
    *args: Any,
) -> Computation | None:
    """Return a cached measurement, or measure and cache it."""
    if key in known:
        return known[key]
    if (key, id(problem)) not in _process:
        try:
            with contained():
                computation = measured(*args)
        except Exception:  # a model that fails while it is counted still trains
            logger.debug("the cost of a computation could not be measured", exc_info=True)
            return None
        if len(_process) >= _MAX_REMEMBERED:
            del _process[next(iter(_process))]
        _process[key, id(problem)] = (problem, computation)
    known[key] = _process[key, id(problem)][1]
    return known[key]


# Everything a cost depends on, within one problem, as one word.


def _job_word(job: Job) -> str:
    shapes = [_shape(value) for tree in job.meta.values() for value in tree.values()]
    return f"{_described(job.strategy)}|{shapes}"


_described = lru_cache(maxsize=64)(repr)


def _key(job_word: str, memory: Params, group: TaskGroup) -> str:
    shapes = [_shape(value) for value in memory.values()]
    shapes += [
        (name, *_shape(value, 1))
        for batch in group.tasks for tree in batch for name, value in named(tree)
    ]  # fmt: skip
    return hashlib.sha256(f"{job_word}|{shapes}".encode()).hexdigest()[:16]


def _shape(value: Tensor, first_axis: int = 0) -> tuple[Any, ...]:
    return (*value.shape[first_axis:], value.dtype)


def _measured(job: Job, memory: Params, group: TaskGroup) -> Computation:
    def update(meta: MetaParams, memory: Params, task: Task) -> ClientUpdate:
        return replace(job, meta=meta).update(task, memory)

    return measure(update, job.meta, _there(job, memory), first_task(group.tasks))


def _measured_evaluation(
    job: Job, evaluate: Evaluate, memory: Params, group: TaskGroup
) -> Computation:
    def evaluated(
        _meta: MetaParams, memory: Params, task: Task
    ) -> Any:  # meta: an input, not a find
        return evaluate(task, memory)

    return measure(evaluated, job.meta, _there(job, memory), first_task(group.tasks))


def _there(job: Job, memory: Params) -> Params:
    """Return a memory on the device of the meta-parameters."""
    return to_device({"memory": memory}, device_of(job.meta))["memory"]
