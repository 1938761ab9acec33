"""Every tensor is made where the parameters are: proved without a GPU, and compared with one."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from fedmaml.client.node import find_device
from fedmaml.client.replies import prepare
from fedmaml.computing import evaluation, updates
from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.aggregation import ExactSum, in_range
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.learner import on_device
from fedmaml.core.requests import EvaluateRequest, TrainRequest
from fedmaml.core.tasks import TaskGroup, first_task
from fedmaml.preflight import preflight
from fedmaml.strategies import CATALOGUE
from fedmaml.strategies.base import Initialised, MetaStrategy, with_few_steps
from tests.catalogue import founding_first
from tests.conftest import Example

CLIENTS = (0, 1, 2, 3, 4)


def start_of(strategy: MetaStrategy, example: Example) -> Initialised:
    return strategy.build(example.problem, seeding.generator(0, "init"))


# --- without a GPU --------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[FakeTensorMode]:
    """A device other than the CPU that computes nothing but, as a GPU does, refuses mixtures."""
    mode = FakeTensorMode()
    mode.allow_meta = True
    with mode:
        yield mode


def moved(tree: Any) -> Any:
    return tree_map(lambda value: torch.zeros(value.shape, dtype=value.dtype, device="meta"), tree)


def test_mixtures_of_devices_are_seen(elsewhere: FakeTensorMode) -> None:
    there = torch.zeros(3, device="meta")
    for mixture in (lambda: there + torch.ones(3), lambda: there == torch.arange(3)):
        with pytest.raises(RuntimeError, match="same device"):
            mixture()


@pytest.mark.parametrize("name", founding_first(CATALOGUE))
def test_no_verb_leaves_the_device(name: str, example: Example) -> None:
    strategy: MetaStrategy = with_few_steps(CATALOGUE[name](), 5)
    learner, state, memory = start_of(strategy, example)
    problem = example.problem
    stacked = tree_map(lambda value: torch.stack([value] * len(CLIENTS)), memory)
    trees = (state.meta, memory, stacked, example.tasks)
    mode = FakeTensorMode()
    mode.allow_meta = True
    with mode:
        meta, memory, stacked, tasks = map(moved, trees)

        def update(task: Any, memory: Any) -> Any:
            return strategy.client_update(learner, meta, memory, task)

        def evaluate(task: Any, memory: Any) -> Any:
            prediction = strategy.adapt(learner, meta, memory, task.support)(task.query.x)
            return [metric.function(prediction, task.query.y) for metric in problem.metrics]

        alone = first_task(tasks)
        together = vmap(update)(tasks, stacked)
        ranges = [
            in_range(value.reshape(len(value), -1), together.weight)
            for rows in together.update.values()
            for value in rows.values()
        ]
        evaluated = [evaluate(alone, memory), vmap(evaluate)(tasks, stacked)]
        results = [update(alone, memory), together, *evaluated, *ranges]
        leaves = [leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]
        assert len(leaves) > 4
        assert {leaf.device.type for leaf in leaves} == {"meta"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_gpu_is_refused_before_anything_starts() -> None:
    config = resolve({"scenario": "quadratic", "device": "cuda"})
    with pytest.raises(ConfigurationError, match=r"device = 'cuda': .*--device cpu"):
        preflight(config)
    with pytest.raises(ConfigurationError, match="device"):
        resolve({"scenario": "quadratic", "device": "cuda:1"})
    assert find_device("cpu") == torch.device("cpu")


# --- with a GPU -----------------------------------------------------------------------------------


def outcome(name: str, example: Example, device: str, batch: int) -> tuple[list[Tensor], Any]:
    strategy: MetaStrategy = CATALOGUE[name]()
    start = start_of(strategy, example)
    there = torch.device(device)
    method = replace(prepare(strategy, example.problem), device=there)
    learner = on_device(start.learner, there)

    def tasks(clients: Sequence[int]) -> list[TaskGroup]:
        rows = list(clients)
        return [TaskGroup(tuple(clients), tree_map(lambda value: value[rows], example.tasks))]

    values: list[Tensor] = []
    memories = dict.fromkeys(CLIENTS, start.memory)
    for form in ("sum", "stack"):
        request = method.on_device(TrainRequest(1, CLIENTS, start.state.meta, form))
        reply, kept, _ = updates.train(strategy, learner, request, tasks, memories, batch)
        assert reply.rejected == ()
        values += [
            update.mean() if isinstance(update, ExactSum) else update
            for update in reply.update.values()
        ]
        values += [value for client in CLIENTS for value in kept.get(client, {}).values()]
        values += [torch.tensor(column) for column in reply.metrics.values()]
    asked = method.on_device(EvaluateRequest(1, "test", CLIENTS, start.state.meta, (2,)))
    evaluated = evaluation.evaluate(strategy, learner, asked, tasks, memories, batch)
    return values, evaluated


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("name", founding_first(CATALOGUE))
def test_gpu_agrees_with_cpu(name: str, batch: int, example: Example) -> None:
    here, evaluated_here = outcome(name, example, "cpu", batch)
    there, evaluated_there = outcome(name, example, "cuda", batch)
    for expected, value in zip(here, there, strict=True):
        assert value.device.type == "cpu"  # messages carry what is on the CPU
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    assert evaluated_there == evaluated_here


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("name", ["maml", "fedrep", "protonet"])
def test_the_comparison_itself_works_on_the_cpu(
    name: str, batch: int, classification: Example
) -> None:
    values, evaluated = outcome(name, classification, "cpu", batch)
    assert all(value.isfinite().all() for value in values)
    assert evaluated.clients == CLIENTS
