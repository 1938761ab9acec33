"""The kernel of `fused` evaluates as the strategy's own ``adapt`` does, in one trajectory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmaml.computing import evaluation
from fedmaml.computing.chunks import Chunk, Tasks
from fedmaml.computing.engines import FUSED, Job, Memories
from fedmaml.computing.engines.base import select, without
from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import (
    ACCURACY,
    AVERAGE_PRECISION,
    BALANCED_ACCURACY,
    CALIBRATION_ERROR,
    CONFUSION,
    EXAMPLES,
    F1,
    LOG_LOSS,
    MAE,
    MEAN_SQUARED_ERROR,
    R2,
    RMSE,
    ROC_AUC,
    Metric,
)
from fedmaml.core.networks import MLP
from fedmaml.core.requests import EvaluateReply, EvaluateRequest
from fedmaml.core.tasks import Batch, TaskGroup, task_at
from fedmaml.strategies import FOMAML, MAML, FedRep
from fedmaml.strategies.base import MetaStrategy, adaptation_spec
from tests.computing.test_engines import (
    LOSSES,
    SIZES,
    STRATEGIES,
    memories_of,
    problem_of,
    small,
    tasks_of,
    with_one_setting_moved,
)

CLIENTS = tuple(range(len(SIZES)))
METRICS = {
    "cross-entropy": (ACCURACY, LOG_LOSS, CALIBRATION_ERROR, EXAMPLES, F1, ROC_AUC),
    "binary": (ACCURACY, LOG_LOSS, CONFUSION, BALANCED_ACCURACY, AVERAGE_PRECISION),
    "squared": (MEAN_SQUARED_ERROR, RMSE, R2),
    "half-squared": (MEAN_SQUARED_ERROR, MAE),
}
BY_KERNEL = sorted(
    name for name, cls in STRATEGIES.items() if not isinstance(adaptation_spec(cls()), str)
)


def evaluated(
    strategy: MetaStrategy,
    problem: Problem,
    groups: Sequence[TaskGroup],
    engine: str,
    batch: int = 0,
    shots: tuple[int, ...] = (),
    executor: object = None,
) -> EvaluateReply:
    """Evaluate, at 2 and 7 steps as well; every client keeps something else, if anything."""
    start = strategy.build(problem, seeding.generator(0, "init"))
    clients = tuple(sorted(client for group in groups for client in group.clients))
    steps = (2, 7) if len(groups) > 1 else ()
    request = EvaluateRequest(1, "test", clients, start.state.meta, steps, shots)
    memories = memories_of(start.memory)
    return evaluation.evaluate(
        strategy,
        start.learner,
        request,
        chosen(groups),
        memories,
        batch,
        executor,
        engine=engine,  # type: ignore[arg-type]
    )


def chosen(groups: Sequence[TaskGroup]) -> Tasks:
    return lambda some: without(groups, set(CLIENTS) - set(some))


def problem_with_metrics(loss: str, dtype: torch.dtype = torch.float64) -> Problem:
    return replace(problem_of(loss, dtype), metrics=METRICS[loss])


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of clients of each call of the kernel."""
    calls: list[int] = []
    original: Callable[..., object] = type(FUSED).predictions

    def counting(self: object, job: Job, groups: Sequence[TaskGroup], *rest: object) -> object:
        calls.append(sum(len(group.clients) for group in groups))
        return original(self, job, groups, *rest)

    monkeypatch.setattr(type(FUSED), "predictions", counting)
    return calls


# The losses and the float32 of one strategy stand for all: the network is the same code.
CASES = [
    *((strategy, "cross-entropy", torch.float64, (1, 4)) for strategy in BY_KERNEL),
    *(("fedrep", loss, torch.float64, ()) for loss in ("binary", "squared")),
    *(("meta_sgd", loss, torch.float64, ()) for loss in ("binary", "squared", "half-squared")),
    *(("maml", loss, torch.float32, (4,)) for loss in LOSSES),
]
OF_OWN_KIND = ("anil", "boil", "cavia", "ditto", "fedrep", "lslr", "maml", "meta_sgd", "pfedme")
"""The others adapt as MAML does."""


def slow_if(condition: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if condition else []


@pytest.mark.parametrize(
    ("strategy", "loss", "dtype", "shots"),
    [pytest.param(*case, marks=slow_if(case[0] not in OF_OWN_KIND)) for case in CASES],
)
def test_kernel_equals_adapt(
    strategy: str,
    loss: str,
    dtype: torch.dtype,
    shots: tuple[int, ...],
    kernel_calls: list[int],
) -> None:
    moving, problem = small(STRATEGIES[strategy], 3), problem_with_metrics(loss, dtype)
    groups = tasks_of(loss, dtype)
    wanted = evaluated(moving, problem, groups, "vmap", shots=shots)
    assert not kernel_calls
    got = evaluated(moving, problem, groups, "fused", shots=shots)
    # one trajectory for all stages, and a call for each number of shots that somebody has
    assert kernel_calls[0] == len(CLIENTS)
    assert len(kernel_calls) <= 3
    assert got.clients == wanted.clients == CLIENTS
    assert list(got.values) == list(wanted.values)
    assert (got.rejected, got.computations) == (wanted.rejected, wanted.computations)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for name, column in wanted.values.items():
        np.testing.assert_allclose(got.values[name], column, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=slow_if(name not in OF_OWN_KIND)) for name in BY_KERNEL]
)
def test_kernel_knows_or_refuses_every_setting(strategy: str) -> None:
    problem, (group, *_) = problem_with_metrics("cross-entropy"), tasks_of("cross-entropy")
    groups = [select(group, [0, 1])]
    taken = []
    for name, changed in with_one_setting_moved(small(STRATEGIES[strategy], 3)):
        start = changed.build(problem, seeding.generator(0, "init"))
        reason = FUSED.why_not_evaluated(Job(changed, start.learner, start.state.meta))
        assert (not reason) or name.endswith((".batch", ".epochs", ".bound", ".later")), reason
        taken += [] if reason else [name]
        wanted = evaluated(changed, problem, groups, "vmap")
        got = evaluated(changed, problem, groups, "fused")
        for column, values in wanted.values.items():
            np.testing.assert_allclose(got.values[column], values, rtol=1e-12, atol=1e-12)
    assert len(taken) >= 2


@pytest.mark.parametrize("batch", [2, 7, 16])
def test_a_client_has_the_same_bits_in_any_chunk(batch: int) -> None:
    problem = problem_with_metrics("cross-entropy", torch.float32)
    groups = tasks_of("cross-entropy", torch.float32)
    whole = evaluated(FedRep(), problem, groups, "auto")
    cut = evaluated(FedRep(), problem, groups, "auto", batch)
    assert cut.clients == whole.clients
    for name, column in whole.values.items():
        np.testing.assert_array_equal(cut.values[name], column)


def test_chunks_of_another_process_give_the_same_reply() -> None:
    problem = problem_with_metrics("cross-entropy", torch.float32)
    groups = tasks_of("cross-entropy", torch.float32)
    strategy = small(FOMAML, 2)
    start = strategy.build(problem, seeding.generator(0, "init"))
    seen: list[tuple[str, int]] = []

    class Two:
        workers = 2

        def evaluate(
            self, engine: str, request: EvaluateRequest, chunks: Sequence[Chunk], memories: Memories
        ) -> Iterator[EvaluateReply]:
            for chunk in chunks:
                seen.append((engine, len(chunk)))
                part = replace(request, clients=chunk)
                yield evaluation.evaluate_chunk(
                    strategy, start.learner, part, chosen(groups), memories, engine
                )

    alone = evaluated(strategy, problem, groups, "fused")
    shared = evaluated(strategy, problem, groups, "fused", 12, executor=Two())
    assert seen == [("fused", 12), ("fused", 11)]
    assert shared.clients == alone.clients
    assert shared.computations == alone.computations
    for name, column in alone.values.items():
        np.testing.assert_array_equal(shared.values[name], column)


@pytest.mark.parametrize("target", [-100, 3])
def test_a_target_that_is_no_class_harms_its_client_alone(target: int) -> None:
    problem = problem_with_metrics("cross-entropy")
    groups = tasks_of("cross-entropy")
    good = evaluated(MAML(), problem, groups, "auto")
    groups[0].tasks.support.y[2, 1] = target
    spoiled = groups[0].clients[2]
    bad = evaluated(MAML(), problem, groups, "auto")
    if target == -100:  # which PyTorch's cross-entropy ignores
        (alone,) = (without(groups, set(CLIENTS) - {spoiled}),)
        by_adapt = evaluated(MAML(), problem, alone, "vmap")
        assert (bad.clients, bad.rejected) == (CLIENTS, ())
        assert bad.values["log_loss:after"][spoiled] == by_adapt.values["log_loss:after"][0]
        expected = CLIENTS
    else:
        assert [rejection.clients for rejection in bad.rejected] == [(spoiled,)]
        expected = tuple(client for client in CLIENTS if client != spoiled)
    assert bad.clients == expected
    others = [client for client in CLIENTS if client != spoiled]
    for name, column in good.values.items():
        found = dict(zip(bad.clients, bad.values[name], strict=True))
        np.testing.assert_array_equal(
            [found[client] for client in others], [column[client] for client in others]
        )


def test_a_client_that_diverges_has_the_worst_value_alone() -> None:
    problem, groups = problem_with_metrics("squared"), tasks_of("squared")
    good = evaluated(MAML(), problem, groups, "auto")
    groups[0].tasks.support.x[4] = 1e200
    bad = evaluated(MAML(), problem, groups, "auto")
    spoiled = groups[0].clients[4]
    assert bad.clients == CLIENTS
    assert bad.values["mse:after"][spoiled] == float("inf")
    assert bad.values["mse:before"] == good.values["mse:before"]
    assert (
        np.delete(bad.values["mse:after"], spoiled).tolist()
        == np.delete(good.values["mse:after"], spoiled).tolist()
    )


def test_a_metric_that_fails_at_a_client_leaves_it_out_alone() -> None:
    def picky(_prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if len(y) == 4:
            raise RuntimeError("four")
        return y.sum()

    problem = replace(problem_of("squared"), metrics=(Metric("picky", "1", "higher", 0.0, picky),))
    reply = evaluated(MAML(), problem, tasks_of("squared"), "auto")
    assert reply.clients == tuple(client for client in CLIENTS if SIZES[client][1] != 4)
    assert len(reply.rejected) == 3


def test_a_support_without_examples_is_computed_as_by_adapt() -> None:
    problem, groups = problem_with_metrics("squared"), tasks_of("squared")
    task = task_at(groups[1].tasks, 0)
    empty = Batch(task.support.x[None, :0], task.support.y[None, :0])
    query = Batch(task.query.x[None], task.query.y[None])
    first = groups[1].clients[0]
    groups = [*without(groups, {first}), TaskGroup((first,), type(task)(empty, query))]
    by_kernel, by_adapt = (evaluated(MAML(), problem, groups, e) for e in ("fused", "vmap"))
    for name, column in by_adapt.values.items():
        np.testing.assert_allclose(by_kernel.values[name], column, rtol=1e-12)


def test_only_auto_and_fused_take_the_kernel_and_only_where_it_pays(
    kernel_calls: list[int],
) -> None:
    groups = tasks_of("squared")
    problem = problem_with_metrics("squared")
    for engine in ("loop", "vmap", "factored"):
        evaluated(MAML(), problem, groups, engine)
    evaluated(MAML(), problem, groups, "auto", 1)
    unknown = replace(problem, loss=lambda p, y: (p - y).abs().mean(-1))
    evaluated(MAML(), unknown, groups, "fused")
    mini_batches = MAML(inner=GradientSteps(steps=2, batch=2))
    evaluated(mini_batches, problem, groups, "fused")
    assert not kernel_calls
    wide = replace(problem, network=lambda: MLP((4, 18_000, 2)))
    start = FOMAML().build(wide, seeding.generator(0, "init"))
    job = Job(FOMAML(), start.learner, start.state.meta)
    assert "it does not pay" in FUSED.why_slow(job)
    assert evaluation.chunk_size(job, "auto", 5000) < 512
    # what no other engine but vmap computes has no such bound
    assert FUSED.why_slow(Job(MAML(), start.learner, start.state.meta)) == ""
