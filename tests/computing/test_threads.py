"""Threads of the kernel of `fused` share the clients, and no bit shows it."""

import os
import time

import pytest
import torch

from fedmaml import native
from fedmaml.computing.engines import FUSED, Job
from fedmaml.computing.engines.base import Rows, Total
from fedmaml.core import seeding
from fedmaml.core.params import Params, flatten
from fedmaml.core.tasks import TaskGroup
from fedmaml.strategies import FOMAML, MAML, FedRep, MetaSGD, MetaStrategy
from tests.computing.test_padding import problem_of, small, tasks_of

SIZES = [(1 + client % 9, 1 + client * 3 % 7) for client in range(1203)]
THREADS = "1", "2", "5", "64"


def work(
    strategy: type[MetaStrategy], dtype: torch.dtype, form: str
) -> tuple[Job, list[TaskGroup], dict[int, Params]]:
    built, problem = small(strategy), problem_of(dtype)
    start = built.build(problem, seeding.generator(0, "init"))
    memories = dict.fromkeys(range(len(SIZES)), start.memory)
    job = Job(built, start.learner, start.state.meta, form)  # type: ignore[arg-type]
    return job, tasks_of(dtype, SIZES), memories


def tensors_of(part: Rows | Total) -> list[torch.Tensor]:
    if isinstance(part, Total):
        sums = [each.mean() for each in part.sums.values()]
        return [*sums, part.weight, *part.metrics.values()]
    trees = [*part.results.update.values(), part.results.memory]
    found = [flatten(tree, batch_axes=1) for tree in trees if tree]
    return [*found, *part.results.metrics.values()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("strategy", "form"),
    [(FOMAML, "sum"), (MAML, "sum"), (MetaSGD, "sum"), (MAML, "stack"), (FedRep, "sum")],
)
def test_updates_have_the_same_bits(
    strategy: type[MetaStrategy], form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = work(strategy, dtype, form)
    arguments[1][3].tasks.support.x[0, 0] = torch.inf  # a client that is left out, at any thread
    found = []
    for threads in THREADS:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(list(FUSED.compute(*arguments)))
    for other in found[1:]:
        for part, same in zip(found[0], other, strict=True):
            assert part.clients == same.clients
            for one, two in zip(tensors_of(part), tensors_of(same), strict=True):
                torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


def test_predictions_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = work(MAML, torch.float32, "sum")
    found = []
    for threads in THREADS:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(FUSED.predictions(*arguments, [0, 1, 3]))
    for other in found[1:]:
        for group, same in zip(found[0], other, strict=True):
            assert torch.equal(group.values, same.values)
            assert (group.sound == same.sound).all()


def test_other_threads_have_a_share_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = work(MAML, torch.float64, "sum")
    by_others = {}
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        started = time.process_time() - time.thread_time()
        for _ in range(20):
            list(FUSED.compute(*arguments))
        by_others[threads] = time.process_time() - time.thread_time() - started
    assert by_others["1"] < 1e-3 < by_others["2"]


def test_as_many_as_said_or_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    for said, expected in {"2": 2, "4,2": 4, "": 3, "0": 3, "many": 3}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert native.threads() == expected
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert native.threads() == 3
