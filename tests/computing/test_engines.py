"""Every engine computes what the loop computes, and the plan says which one and why."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import field, fields, is_dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fedmaml.computing import updates
from fedmaml.computing.engines import ENGINES, LOOP, Job, Rows, Total, plan
from fedmaml.computing.engines.base import select, without
from fedmaml.core import losses, seeding
from fedmaml.core.aggregation import exact_sum
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.networks import MLP, LinearModel
from fedmaml.core.outer_optimizer import OuterOptimizer
from fedmaml.core.params import MetaParams, Params, flatten, map_params
from fedmaml.core.requests import TrainReply, TrainRequest
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, cast, first_task, group_by_shape
from fedmaml.strategies import CATALOGUE, FOMAML, MAML, FedAvg, MetaSGD, ProtoNet
from fedmaml.strategies.base import MetaStrategy, ServerState
from tests.catalogue import AMPLIFY, FOUNDING, slow_unless

SIZES = [(5, 7)] * 11 + [(3, 4)] * 3 + [(8, 2)] * 9  # more than a vector's lanes, of unequal size
STRATEGIES: dict[str, type[MetaStrategy]] = dict(CATALOGUE)
EAGER = [name for name in ENGINES if name != "loop"]

LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[], nn.Module]]] = {
    "cross-entropy": (losses.cross_entropy, lambda: MLP((4, 6, 5, 3), torch.tanh)),
    "binary": (losses.binary_cross_entropy, lambda: MLP((4, 6, 1), torch.tanh)),
    "squared": (losses.squared_error, lambda: MLP((4, 9, 2), torch.relu)),
    "half-squared": (losses.half_squared_error, lambda: LinearModel(4, 1, bias=False)),
}


def test_every_loss_of_the_catalogue_is_held_against_the_loop_here() -> None:
    assert {function for function, _ in LOSSES.values()} == set(losses.CATALOGUE)


def problem_of(loss: str, dtype: torch.dtype = torch.float64, l2: float = 0.01) -> Problem:
    function, network = LOSSES[loss]
    classes = 3 if loss == "cross-entropy" else None
    return Problem(network, function, (), classes=classes, l2=l2, dtype=dtype)


def tasks_of(loss: str, dtype: torch.dtype = torch.float64) -> list[TaskGroup]:
    """Return one task for each of `SIZES`."""
    tasks = {}
    for client, (support, query) in enumerate(SIZES):
        rng = seeding.generator(0, "task", client)
        count = support + query
        x = torch.randn(count, 4, generator=rng, dtype=torch.float64)
        y = {
            "cross-entropy": torch.randint(0, 3, (count,), generator=rng),
            "binary": torch.randint(0, 2, (count,), generator=rng).double(),
            "squared": torch.randn(count, 2, generator=rng, dtype=torch.float64),
            "half-squared": torch.randn(count, generator=rng, dtype=torch.float64),
        }[loss]
        tasks[client] = Task(Batch(x[:support], y[:support]), Batch(x[support:], y[support:]))
    return [TaskGroup(g.clients, cast(g.tasks, dtype)) for g in group_by_shape(tasks)]


def job_of(strategy: MetaStrategy, problem: Problem, form: str = "stack") -> tuple[Job, Params]:
    start = strategy.build(problem, seeding.generator(0, "init"))
    return Job(strategy, start.learner, start.state.meta, form), start.memory  # type: ignore[arg-type]


def by_client(parts: Iterator[Rows | Total]) -> dict[int, tuple[MetaParams, dict[str, float]]]:
    """Return each client's update, and its weight and metrics."""
    found = {}
    for part in parts:
        assert isinstance(part, Rows)
        for i, client in enumerate(part.clients):
            update = {
                group: {name: value[i] for name, value in params.items()}
                for group, params in part.results.update.items()
            }
            if part.results.memory:
                own = part.results.memory.items()
                update["memory"] = {name: value[i] for name, value in own}
            numbers = {name: float(value[i]) for name, value in part.results.metrics.items()}
            found[client] = (update, numbers | {"weight": float(part.results.weight[i])})
    return found


def small(strategy: type[MetaStrategy], steps: int) -> MetaStrategy:
    built = strategy()
    if not hasattr(built, "inner"):
        return built
    return replace(built, inner=GradientSteps(lr=0.1, steps=steps))  # type: ignore[type-var]


def loss_for(strategy: str) -> str:
    """Return a loss that the strategy takes."""
    return {"ridge_head": "squared", "empirical_bayes": "half-squared"}.get(
        strategy, "cross-entropy"
    )


def memories_of(memory: Params) -> dict[int, Params]:
    """Return what each client keeps: each something else; every second one has taken part."""

    def own(name: str, value: Tensor, client: int) -> Tensor:
        if name == "took_part":
            return torch.full_like(value, client % 2)
        return value + 0.01 * client if value.is_floating_point() else value

    return {
        client: {name: own(name, value, client) for name, value in memory.items()}
        for client in range(len(SIZES))
    }


DIFFERENCES = ("difference", "meta-difference", "envelope")


@cache  # every engine is held against it
def of_the_loop(
    strategy: str, steps: int, loss: str, dtype: torch.dtype
) -> dict[int, tuple[MetaParams, dict[str, float]]]:
    job, memory = job_of(small(STRATEGIES[strategy], steps), problem_of(loss, dtype))
    return by_client(LOOP.compute(job, tasks_of(loss, dtype), memories_of(memory)))


EQUAL = [
    slow_unless(
        strategy in ("maml", "fedrep", "protonet")
        or (
            (loss, dtype) == (loss_for(strategy), torch.float64)
            and (strategy in FOUNDING or engine in ("vmap", "fused"))
        ),
        engine, strategy, loss, dtype,
    )
    for engine in EAGER
    for strategy in STRATEGIES
    for loss in LOSSES
    for dtype in (torch.float64, torch.float32)
]  # fmt: skip


@pytest.mark.parametrize(("engine", "strategy", "loss", "dtype"), EQUAL)
def test_engine_equals_the_loop(engine: str, strategy: str, loss: str, dtype: torch.dtype) -> None:
    tolerance, kernel = 1e-12 if dtype == torch.float64 else 1e-5, STRATEGIES[strategy].facts.kernel
    tolerance *= 100 if strategy in AMPLIFY else 1
    for steps in (0, 1, 3):
        try:
            job, memory = job_of(small(STRATEGIES[strategy], steps), problem_of(loss, dtype))
        except Exception as error:  # not a problem for this strategy
            pytest.skip(str(error))
        if reason := ENGINES[engine].why_unsupported(job):
            assert len(reason) > 10
            pytest.skip(reason)
        expected = of_the_loop(strategy, steps, loss, dtype)
        groups = tasks_of(loss, dtype)
        got = by_client(ENGINES[engine].compute(job, groups, memories_of(memory)))
        assert set(got) == set(expected)
        for client, (update, numbers) in expected.items():
            assert set(got[client][0]) == set(update)
            for group, params in update.items():
                reference, own = flatten(params), flatten(got[client][0][group])
                allowed = tolerance * max(reference.norm(), 1e-3)
                if kernel is not None and kernel.sends in DIFFERENCES:  # the loop rounds phi
                    start = flatten(job.meta.get(group, memory))
                    allowed += torch.finfo(dtype).eps * start.norm()
                assert (own - reference).norm() <= allowed
            assert got[client][1] == pytest.approx(numbers, rel=10 * tolerance, abs=10 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("strategy", [FOMAML, MetaSGD])
@pytest.mark.parametrize("engine", EAGER)
def test_a_sum_is_the_exact_sum_of_the_stack(
    engine: str, strategy: type[MetaStrategy], dtype: torch.dtype
) -> None:
    job, memory = job_of(small(strategy, 3), problem_of("cross-entropy", dtype), "sum")
    if reason := ENGINES[engine].why_unsupported(job):
        pytest.skip(reason)
    groups = tasks_of("cross-entropy", dtype)
    memories = dict.fromkeys(range(len(SIZES)), memory)
    stack = by_client(ENGINES[engine].compute(replace(job, form="stack"), groups, memories))
    for part in ENGINES[engine].compute(job, groups, memories):
        if isinstance(part, Rows):
            continue
        assert set(part.sums) == set(job.meta)
        for group, total in part.sums.items():
            rows = torch.stack([flatten(stack[client][0][group]) for client in part.clients])
            expected = exact_sum(rows, part.weight)
            assert torch.equal(total.limbs, expected.limbs)
            assert total.weight == expected.weight


@pytest.mark.parametrize("target", [-100, -1, 3, 2**40])
@pytest.mark.parametrize("form", ["sum", "stack"])
def test_fused_makes_no_update_of_a_target_that_is_no_class(form: str, target: int) -> None:
    job, memory = job_of(small(FOMAML, 1), problem_of("cross-entropy", torch.float32), form)
    groups = tasks_of("cross-entropy", torch.float32)
    groups[0].tasks.query.y[2, 1] = target
    client = groups[0].clients[2]
    parts = ENGINES["fused"].compute(job, groups, dict.fromkeys(range(len(SIZES)), memory))
    if form == "stack":
        with pytest.raises(IndexError, match="a target is none of the 3 classes"):
            list(parts)
        return
    (total,) = parts
    assert isinstance(total, Total)
    assert total.unsound == (client,)
    assert client not in total.clients


def answer(
    strategy: MetaStrategy,
    problem: Problem,
    groups: list[TaskGroup],
    engine: str,
    form: str = "sum",
    batch: int = 0,
) -> TrainReply:
    job, memory = job_of(strategy, problem)
    clients = tuple(range(len(SIZES)))
    request = TrainRequest(1, clients, job.meta, form)  # type: ignore[arg-type]

    def tasks(chosen: object) -> list[TaskGroup]:
        return without(groups, set(clients) - set(chosen))  # type: ignore[call-overload]

    memories = dict.fromkeys(clients, memory)
    return updates.train(strategy, job.learner, request, tasks, memories, batch, engine=engine)[0]


@pytest.mark.parametrize("batch", [0, 2, 7, 23])
def test_fused_gives_the_same_bits_for_any_grouping(batch: int) -> None:
    problem, groups = (
        problem_of("cross-entropy", torch.float32),
        tasks_of("cross-entropy", torch.float32),
    )
    whole = answer(small(MAML, 3), problem, groups, "fused").update["theta"]
    cut = answer(small(MAML, 3), problem, groups, "fused", batch=batch).update["theta"]
    assert torch.equal(whole.limbs, cut.limbs)  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["sum", "stack"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("engine", EAGER)
def test_client_that_diverges_is_left_out_alone(engine: str, value: float, form: str) -> None:
    problem, groups = problem_of("squared"), tasks_of("squared")
    good = answer(small(FOMAML, 3), problem, groups, engine, form)
    groups[0].tasks.support.x[4] = value
    bad = answer(small(FOMAML, 3), problem, groups, engine, form)
    spoiled = groups[0].clients[4]
    assert set(good.clients) - set(bad.clients) == {spoiled}
    (rejection,) = bad.rejected
    assert rejection.reason in (("NONFINITE", "RANGE") if math.isfinite(value) else ("DATA",))
    assert rejection.clients == (spoiled,)
    assert len(bad.weights) == len(SIZES) - 1


def test_targets_of_a_wrong_shape_harm_their_client_alone() -> None:
    problem, groups = problem_of("squared"), tasks_of("squared")
    x, y = groups[1].tasks.support
    groups[1] = TaskGroup(groups[1].clients, Task(Batch(x, y[..., :1]), groups[1].tasks.query))
    reply = answer(small(FOMAML, 3), problem, groups, "fused")
    assert len(reply.clients) + len(reply.rejected) == len(SIZES)


# --- the plan ----------------------------------------------------------------------------------


def test_auto_takes_fused_for_small_networks_and_says_so() -> None:
    job, _ = job_of(MAML(), problem_of("cross-entropy"))
    chosen = plan("auto", job)
    assert chosen.engine.name == "fused"
    assert str(chosen).startswith("fused: ")


def test_plan_names_the_reasons_of_those_passed_over() -> None:
    problem = replace(problem_of("squared"), loss=lambda p, y: (p - y).abs().mean(-1))
    chosen = plan("auto", job_of(MAML(), problem)[0])
    assert "fedmaml.core.losses" in chosen.why
    assert "not fused" in chosen.why
    chosen = plan("fused", job_of(ProtoNet(), problem_of("cross-entropy"))[0])
    assert chosen.engine.name != "fused"
    assert "is not written out for it" in chosen.why


def test_plan_for_an_engine_asked_for() -> None:
    job, _ = job_of(MAML(), problem_of("squared"))
    assert str(plan("loop", job)) == "loop: as asked"


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_plan_says_so_and_the_run_goes_on() -> None:
    strategy = small(MAML, 2)
    problem, groups = problem_of("cross-entropy"), tasks_of("cross-entropy")
    reply = answer(strategy, problem, groups, "auto")
    chosen = plan("auto", job_of(strategy, problem)[0])
    assert "not fused" in chosen.why
    assert "FEDMAML_NATIVE=0" in chosen.why
    assert reply.engines == {chosen.engine.name: len(SIZES)}
    assert len(reply.clients) == len(SIZES)


# --- settings ---------------------------------------------------------------------------------


def moved(value: Any) -> Any:
    """Return another valid value of a setting."""
    match value:
        case bool():
            return not value
        case int():
            return value + 2
        case float():
            return 0.7 * value if value else 0.3
        case "body":
            return "inputs"
        case "scenario":
            return "squares"
    raise AssertionError(f"no other value of {value!r} is known here")


def with_one_setting_moved(strategy: MetaStrategy) -> Iterator[tuple[str, MetaStrategy]]:
    """Yield the strategy with each number of its client's settings in turn away from its value."""
    for item in fields(strategy):  # type: ignore[arg-type]
        value = getattr(strategy, item.name)
        if isinstance(value, OuterOptimizer):
            continue  # the server's
        if not is_dataclass(value):
            yield item.name, replace(strategy, **{item.name: moved(value)})  # type: ignore[type-var]
            continue
        for inner in fields(value):
            changed = replace(value, **{inner.name: moved(getattr(value, inner.name))})
            name = f"{item.name}.{inner.name}"
            yield name, replace(strategy, **{item.name: changed})  # type: ignore[type-var]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "engine",  # vmap calls the strategy's own verb
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "vmap")) for name in EAGER],
)
def test_no_engine_ignores_a_setting(engine: str, strategy: str) -> None:
    """What an engine does not know it refuses; what it computes is what the loop computes."""
    problem = problem_of(loss_for(strategy))
    groups = [select(group, [0, 1]) for group in tasks_of(loss_for(strategy))]
    changes = list(with_one_setting_moved(small(STRATEGIES[strategy], 3)))
    assert len({name for name, _ in changes}) == len(changes)
    for name, changed in changes:
        job, memory = job_of(changed, problem)
        if ENGINES[engine].why_unsupported(job):
            continue
        memories = memories_of(memory)
        expected = by_client(LOOP.compute(job, groups, memories))
        got = by_client(ENGINES[engine].compute(job, groups, memories))
        for client, (update, _) in expected.items():
            for group, params in update.items():
                reference, own = flatten(params), flatten(got[client][0][group])
                assert (own - reference).norm() <= 1e-11 * max(reference.norm(), 1e-3), name


NEEDED: dict[str, dict[str, Any]] = {
    "matchingnet": {"full_context": True},
    "mann": {"slots": 4, "decay": 0.2, "scale": 2.0},
}
"""Settings without which others have no effect."""


@pytest.mark.parametrize("strategy", [name for name in CATALOGUE if name != "pearl"])  # test_pearl
def test_every_setting_changes_an_update_a_prediction_or_the_server(strategy: str) -> None:
    """So that the test above moves what matters."""
    (group, *_), problem = tasks_of(loss_for(strategy)), problem_of(loss_for(strategy))
    task = first_task(group.tasks)
    if strategy == "ridge_head":  # whose Newton steps are those of a logistic head
        (group, *_), problem = tasks_of("binary"), problem_of("binary")
        task = first_task(group.tasks)
    unmoved = small(CATALOGUE[strategy], 3)
    if needed := NEEDED.get(strategy):
        unmoved = replace(unmoved, **needed)  # type: ignore[arg-type]

    def effects(strategy: MetaStrategy) -> list[Tensor]:
        job, memory = job_of(strategy, problem)
        noisy = {g: map_params(lambda v: v + 0.1, params) for g, params in job.meta.items()}
        sent = replace(job, meta=noisy).update(task, memory)
        predict = strategy.adapt(job.learner, noisy, memory, task.support)
        after = strategy.server_update(ServerState(noisy), sent.update)
        return [*tree_leaves((sent, after.meta, job.meta)), predict(task.query.x)]

    before = effects(unmoved)
    for name, changed in with_one_setting_moved(unmoved):
        after = effects(changed)
        assert not all(map(torch.equal, before, after)), name


def test_a_setting_that_no_kernel_names_is_refused() -> None:
    @settings
    class Damped(MetaStrategy):
        """FOMAML with a setting that its `Kernel` does not name."""

        facts = FOMAML.facts
        inner: GradientSteps = field(default_factory=GradientSteps)
        outer: OuterOptimizer = field(default_factory=OuterOptimizer)
        damping: float = 0.0
        build = FOMAML.build
        adapt = FOMAML.adapt
        client_update = FOMAML.client_update
        server_update = FOMAML.server_update

    job, _ = job_of(Damped(), problem_of("cross-entropy"))
    for engine in ("fused", "factored"):
        reason = ENGINES[engine].why_unsupported(job)
        assert "does not know the setting 'damping' of FOMAML" in reason


@pytest.mark.parametrize("changed", [{"batch": 2}, {"epochs": 2}, {"batch": 2, "epochs": 2}])
def test_mini_batches_are_refused_by_kernels_and_computed_by_the_others(
    changed: dict[str, int],
) -> None:
    strategy = FedAvg(inner=GradientSteps(lr=0.1, steps=3, **changed))
    job, _ = job_of(strategy, problem_of("cross-entropy"))
    for engine in ("fused", "factored"):
        reason = ENGINES[engine].why_unsupported(job)
        assert re.search(r"does not know (batch|epochs) = 2 of gradient steps", reason)
    assert plan("auto", job).engine.name == "vmap"
