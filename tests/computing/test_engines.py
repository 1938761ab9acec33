"""Every engine computes what the loop computes, and the plan says which one and why."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedmaml.computing import updates
from fedmaml.computing.engines import ENGINES, LOOP, Job, Rows, Total, plan
from fedmaml.computing.engines.base import without
from fedmaml.core import losses, seeding
from fedmaml.core.aggregation import exact_sum
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.networks import MLP, LinearModel
from fedmaml.core.params import MetaParams, Params, flatten
from fedmaml.core.requests import TrainReply, TrainRequest
from fedmaml.core.tasks import Batch, Task, TaskGroup, cast, group_by_shape
from fedmaml.strategies import CATALOGUE, FOMAML, MAML, FedRep
from fedmaml.strategies.base import MetaStrategy

SIZES = [(5, 7)] * 11 + [(3, 4)] * 3 + [(8, 2)] * 9  # more than a vector's lanes, of unequal size
EAGER = [name for name in ENGINES if name not in ("loop", "compiled")]

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
            numbers = {name: float(value[i]) for name, value in part.results.metrics.items()}
            found[client] = (update, numbers | {"weight": float(part.results.weight[i])})
    return found


def small(strategy: type[MetaStrategy], steps: int) -> MetaStrategy:
    built = strategy()
    if not hasattr(built, "inner"):
        return built
    return replace(built, inner=GradientSteps(lr=0.1, steps=steps))  # type: ignore[type-var]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("strategy", CATALOGUE)
@pytest.mark.parametrize("engine", EAGER)
def test_engine_equals_the_loop(engine: str, strategy: str, loss: str, dtype: torch.dtype) -> None:
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for steps in (0, 1, 3):
        try:
            job, memory = job_of(small(CATALOGUE[strategy], steps), problem_of(loss, dtype))
        except Exception as error:  # not a problem for this strategy
            pytest.skip(str(error))
        if reason := ENGINES[engine].why_unsupported(job):
            assert len(reason) > 10
            pytest.skip(reason)
        groups = tasks_of(loss, dtype)
        memories = dict.fromkeys(range(len(SIZES)), memory)
        expected = by_client(LOOP.compute(job, groups, memories))
        got = by_client(ENGINES[engine].compute(job, groups, memories))
        assert set(got) == set(expected)
        for client, (update, numbers) in expected.items():
            for group, params in update.items():
                reference, own = flatten(params), flatten(got[client][0][group])
                allowed = tolerance * max(reference.norm(), 1e-3)
                if strategy in ("reptile", "fedavg", "fedprox"):  # the loop's rounding of phi
                    allowed += torch.finfo(dtype).eps * flatten(job.meta[group]).norm()
                assert (own - reference).norm() <= allowed
            assert got[client][1] == pytest.approx(numbers, rel=10 * tolerance, abs=10 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("engine", EAGER)
def test_a_sum_is_the_exact_sum_of_the_stack(engine: str, dtype: torch.dtype) -> None:
    job, memory = job_of(small(FOMAML, 3), problem_of("cross-entropy", dtype), "sum")
    if reason := ENGINES[engine].why_unsupported(job):
        pytest.skip(reason)
    groups = tasks_of("cross-entropy", dtype)
    memories = dict.fromkeys(range(len(SIZES)), memory)
    stack = by_client(ENGINES[engine].compute(replace(job, form="stack"), groups, memories))
    for part in ENGINES[engine].compute(job, groups, memories):
        if isinstance(part, Rows):
            continue
        rows = torch.stack([flatten(stack[client][0]["theta"]) for client in part.clients])
        expected = exact_sum(rows, part.weight)
        assert torch.equal(part.sums["theta"].limbs, expected.limbs)
        assert part.sums["theta"].weight == expected.weight


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
    assert rejection.reason in ("NONFINITE", "RANGE")
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
    chosen = plan("fused", job_of(FedRep(), problem_of("squared"))[0])
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
    assert reply.engine == chosen.engine.name
    assert len(reply.clients) == len(SIZES)
