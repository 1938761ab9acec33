"""The engine `compiled`: a strategy's own update rewritten with the clients innermost, compiled.

The rewriting is tested without compiling, for every strategy; few things are compiled, which takes
seconds each.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from fedmaml.client.node import node_setup
from fedmaml.computing import updates
from fedmaml.computing.engines import COMPILED, ENGINES, LOOP, Job, Rows, compiled, plan
from fedmaml.computing.engines.base import without
from fedmaml.computing.engines.clients_last import UnknownOperationError, with_clients_last
from fedmaml.config import resolve, to_run_config
from fedmaml.core import losses, seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.networks import MLP, Conv4
from fedmaml.core.params import Params
from fedmaml.core.requests import TrainReply, TrainRequest
from fedmaml.core.tasks import Batch, Task, TaskGroup, cast
from fedmaml.preflight import preflight
from fedmaml.strategies import CATALOGUE, FOMAML, MAML, MetaSGD
from fedmaml.strategies.base import ClientUpdate, MetaStrategy

ENGINE = ENGINES["compiled"]
CLIENTS = 5

Network = Callable[[], nn.Module]
Loss = Callable[[Tensor, Tensor], Tensor]


def absolute_error(prediction: Tensor, y: Tensor) -> Tensor:
    return (prediction - y[:, None]).abs().mean(-1)


NETWORKS: dict[str, Network] = {
    "tanh": lambda: MLP((4, 6, 3), torch.tanh),
    "gelu": lambda: MLP((4, 6, 3), F.gelu),
    "silu": lambda: MLP((4, 6, 3), F.silu),
    "softplus": lambda: MLP((4, 6, 3), F.softplus),
    "layer-norm": lambda: nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)
    ),
}


def problem_of(
    network: str, loss: Loss = losses.cross_entropy, dtype: torch.dtype = torch.float64
) -> Problem:
    return Problem(NETWORKS[network], loss, (), classes=3, l2=0.01, dtype=dtype)


def group_of(rows: tuple[int, int], first: int = 0, clients: int = CLIENTS) -> TaskGroup:
    numbers = range(first, first + clients)
    x = seeding.normal(seeding.key(1, "x"), numbers, sum(rows), 4)
    y = x.argmax(-1) % 3
    batches = (Batch(x[:, : rows[0]], y[:, : rows[0]]), Batch(x[:, rows[0] :], y[:, rows[0] :]))
    return TaskGroup(tuple(numbers), Task(*batches))


def job_of(strategy: MetaStrategy, problem: Problem) -> tuple[Job, Params]:
    start = strategy.build(problem, seeding.generator(0, "init"))
    return Job(strategy, start.learner, start.state.meta, "stack"), start.memory


def made(name: str, steps: int) -> MetaStrategy:
    strategy = CATALOGUE[name]()
    own = GradientSteps(lr=0.1, steps=steps)
    fields = [field for field in ("inner", "head") if hasattr(strategy, field)]
    return replace(strategy, **dict.fromkeys(fields, own))  # type: ignore[type-var]


def assert_close(got: ClientUpdate, expected: ClientUpdate, tolerance: float) -> None:
    pairs = zip(tree_leaves(got), tree_leaves(expected), strict=True)
    for own, reference in pairs:
        assert own.shape == reference.shape
        assert own.dtype == reference.dtype
        assert (own - reference).norm() <= tolerance * max(float(reference.norm()), 1e-3)


def assert_rewriting_is_exact(strategy: MetaStrategy, problem: Problem) -> None:
    job, initial_memory = job_of(strategy, problem)
    group = group_of((5, 7))
    memory = {name: torch.stack([value] * CLIENTS) for name, value in initial_memory.items()}

    def update(meta: object, own: tuple[Params, Task]) -> ClientUpdate:
        return replace(job, meta=meta).update(own[1], own[0])  # type: ignore[arg-type]

    blank_task = tree_map(lambda value: torch.zeros_like(value[0]), group.tasks)
    graph, structure = with_clients_last(update, job.meta, (initial_memory, blank_task), CLIENTS)
    own = [value.movedim(0, -1) for value in tree_leaves((memory, group.tasks))]
    results = graph(*tree_leaves(job.meta), *own)
    got = torch.utils._pytree.tree_unflatten([r.movedim(-1, 0) for r in results], structure)
    expected = torch.func.vmap(lambda *client: update(job.meta, client))(memory, group.tasks)
    assert_close(got, expected, 1e-13)


# --- rewriting, without compiling ----------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_strategy_is_rewritten_exactly(name: str) -> None:
    assert_rewriting_is_exact(made(name, 2), problem_of("tanh"))


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_are_rewritten_exactly(network: str) -> None:
    problem = replace(problem_of(network), head="3" if network == "layer-norm" else "head")
    assert_rewriting_is_exact(made("maml", 1), problem)


@pytest.mark.parametrize("loss", [absolute_error, losses.cross_entropy])
def test_losses_are_rewritten_exactly(loss: Loss) -> None:
    assert_rewriting_is_exact(made("fomaml", 1), problem_of("tanh", loss))


def test_an_operation_without_a_rule_is_named() -> None:
    with pytest.raises(UnknownOperationError, match="convolution"):
        with_clients_last(
            lambda weight, x: F.conv1d(x, weight), torch.ones(1, 1, 3), torch.ones(1, 1, 8), 2
        )


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda weight, x: weight * x if x.sum() > 0 else x, "data-dependent|trying to get value"),
        (lambda weight, x: weight * x.item(), "data-dependent|trying to get value"),
        (lambda weight, x: weight * torch.randn_like(x), "random numbers"),
    ],
)
def test_what_depends_on_values_or_chance_is_not_frozen_into_the_code(
    function: Callable[[Tensor, Tensor], Tensor], reason: str
) -> None:
    with pytest.raises((RuntimeError, UnknownOperationError), match=reason):
        with_clients_last(function, torch.ones(1), torch.ones(1), 2)


# --- compiled ------------------------------------------------------------------------------------


def loop_of(job: Job, group: TaskGroup, memory: Params) -> ClientUpdate:
    parts = list(LOOP.compute(job, [group], dict.fromkeys(group.clients, memory)))
    results = [part.results for part in parts if isinstance(part, Rows)]
    joined: ClientUpdate = tree_map(lambda *values: torch.cat(values), *results)
    return joined


def assert_equals_the_loop(
    job: Job, memory: Params, groups: list[TaskGroup], tolerance: float
) -> None:
    clients = [client for group in groups for client in group.clients]
    parts = list(ENGINE.compute(job, groups, dict.fromkeys(clients, memory)))
    assert [part.clients for part in parts] == [group.clients for group in groups]
    for part, group in zip(parts, groups, strict=True):
        assert isinstance(part, Rows)
        assert_close(part.results, loop_of(job, group, memory), tolerance)
    assert all(program is not None for program in programs(job))


def programs(job: Job) -> list[object]:
    return list(compiled._programs[job.strategy, job.learner].values())


@pytest.fixture(scope="module")
def meta_sgd() -> tuple[Job, Params]:
    """A job that other engines do not write out, and of which tests share what is compiled."""
    if reason := ENGINE.why_unsupported(job_of(MAML(), problem_of("tanh"))[0]):
        pytest.skip(reason)
    return job_of(MetaSGD(inner=GradientSteps(lr=0.1, steps=1)), problem_of("gelu", absolute_error))


def test_equals_the_loop_for_two_shapes_and_a_cohort_that_fills_no_chunk(
    meta_sgd: tuple[Job, Params],
) -> None:
    job, memory = meta_sgd
    groups = [group_of((5, 7)), group_of((4, 3), first=CLIENTS)]
    assert_equals_the_loop(job, memory, groups, 1e-12)
    assert len(programs(job)) == 2


def test_the_bits_of_a_client_do_not_depend_on_its_cohort(meta_sgd: tuple[Job, Params]) -> None:
    job, memory = meta_sgd
    (many,) = ENGINE.compute(job, [group_of((5, 7), clients=70)], dict.fromkeys(range(70), memory))
    for first in (0, 3, 65):
        group = group_of((5, 7), first=first, clients=2)
        (few,) = ENGINE.compute(job, [group], dict.fromkeys(group.clients, memory))
        for own, whole in zip(tree_leaves(few[1]), tree_leaves(many[1]), strict=True):
            assert torch.equal(own, whole[first : first + 2])


def reply_of(job: Job, groups: list[TaskGroup], engine: str = "compiled") -> TrainReply:
    clients = tuple(client for group in groups for client in group.clients)
    request = TrainRequest(1, clients, job.meta, "sum")

    def tasks(chosen: object) -> list[TaskGroup]:
        return without(groups, set(clients) - set(chosen))  # type: ignore[call-overload]

    memories: dict[int, Params] = {client: {} for client in clients}
    return updates.train(job.strategy, job.learner, request, tasks, memories, engine=engine)[0]


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_a_client_that_diverges_is_left_out_alone(
    meta_sgd: tuple[Job, Params], value: float
) -> None:
    job, _ = meta_sgd
    group = group_of((5, 7), clients=9)
    group.tasks.query.x[4] = value
    reply = reply_of(job, [group])
    assert reply.engines == {"compiled": 8}
    assert reply.clients == (0, 1, 2, 3, 5, 6, 7, 8)
    (rejection,) = reply.rejected
    assert rejection.reason in ("NONFINITE", "RANGE")
    assert rejection.clients == (4,)
    expected = reply_of(job, [without([group], {4})[0]], "loop")
    for name in job.meta:
        assert torch.allclose(reply.update[name].mean(), expected.update[name].mean(), atol=1e-12)  # type: ignore[union-attr]


def test_first_order_in_single_precision_with_a_label_that_is_none() -> None:
    problem = problem_of("silu", dtype=torch.float32)
    job, memory = job_of(FOMAML(inner=GradientSteps(lr=0.1, steps=1)), problem)
    if reason := ENGINE.why_unsupported(job):
        pytest.skip(reason)
    group = group_of((5, 7), clients=6)
    group = TaskGroup(group.clients, cast(group.tasks, torch.float32))
    assert_equals_the_loop(job, memory, [group], 1e-5)
    group.tasks.query.y[2] = 7  # of three classes
    reply = reply_of(job, [group])
    assert reply.clients == (0, 1, 3, 4, 5)
    assert [rejection.clients for rejection in reply.rejected] == [(2,)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_strategy_equals_the_loop(name: str, dtype: torch.dtype) -> None:
    job, memory = job_of(made(name, 3), problem_of("tanh", dtype=dtype))
    group = group_of((5, 7), clients=70)
    group = TaskGroup(group.clients, cast(group.tasks, dtype))
    assert_equals_the_loop(job, memory, [group], 1e-12 if dtype == torch.float64 else 1e-5)


# --- what it cannot do, and what does not pay ----------------------------------------------------


def test_refuses_layers_that_it_does_not_know() -> None:
    problem = Problem(lambda: Conv4(1, 16, 3, filters=4), losses.cross_entropy, (), classes=3)
    assert "Conv2d 'body.0.0'" in ENGINE.why_unsupported(job_of(FOMAML(), problem)[0])


@pytest.mark.usefixtures("no_compiler")
def test_refuses_without_a_compiler() -> None:
    job, _ = job_of(MetaSGD(), problem_of("tanh"))
    chosen = plan("compiled", job)
    assert chosen.engine.name == "vmap"
    assert "not compiled: FEDMAML_NATIVE=0 forbids" in chosen.why


def test_auto_compiles_only_if_asked_by_name() -> None:
    job = job_of(MetaSGD(), problem_of("gelu"))[0]
    chosen = plan("auto", job)
    assert chosen.engine.name == "vmap"
    reason = (
        ENGINE.why_unsupported(job)
        or "every process would compile first, so it is taken only by name"
    )
    assert f"not compiled: {reason}" in chosen.why
    assert plan("fused", job).engine.name == "vmap"  # nor instead of another


@pytest.mark.parametrize(
    ("requests", "updates", "pays"),
    [(0, 0, False), (1000, 25_000, False), (2000, 50_000, True), (300, 600_000, True)],
)
def test_compiling_pays_for_long_runs(requests: int, updates: int, pays: bool) -> None:
    job = job_of(MetaSGD(), problem_of("gelu"))[0]
    if reason := ENGINE.why_unsupported(job):
        pytest.skip(reason)
    assert (COMPILED.seconds_saved(job, requests, updates) > 0) is pays
    large = job_of(MetaSGD(), replace(problem_of("gelu"), network=lambda: MLP((4, 600, 3))))[0]
    assert COMPILED.seconds_saved(large, requests, updates) <= 0
    long = replace(job, strategy=MetaSGD(inner=GradientSteps(steps=100)))
    assert COMPILED.seconds_saved(long, requests, updates) <= 0


def test_a_run_says_where_compiling_would_pay() -> None:
    said: list[str] = []
    settings = {"scenario": "sinusoid", "strategy": "meta_sgd", "clients": 25}
    preflight(resolve(settings | {"rounds": 100}), said.append)
    assert not [line for line in said if line.startswith("--engine")]
    preflight(resolve(settings | {"rounds": 60_000}), said.append)
    tips = [line for line in said if line.startswith("--engine")]
    # 60,000 x 5 ms + 1,500,000 x 15 us - 9 s
    tip = "--engine compiled would take about 314 s less of the CPU, compiling included"
    refused = ENGINE.why_unsupported(job_of(MetaSGD(), problem_of("gelu"))[0])
    assert tips == ([] if refused else [tip])


@pytest.mark.parametrize("strategy", ["fomaml", "meta_sgd"])
def test_every_back_end_computes_with_the_same_engine(strategy: str) -> None:
    settings = {"scenario": "sinusoid", "strategy": strategy, "rounds": 100_000, "clients": 1000}
    backends = ("in-process", "flower-simulation", "flower-deployment")
    planned = {
        node_setup(to_run_config(resolve(settings | {"backend": name}), out=None)).engine  # type: ignore[arg-type]
        for name in backends
    }
    assert len(planned) == 1


def test_what_cannot_be_compiled_is_vmapped_and_the_log_says_why_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(compiled, "_compile", broken)
    job, memory = job_of(FOMAML(), problem_of("softplus"))
    group = group_of((5, 7))
    with caplog.at_level(logging.WARNING, "fedmaml"):
        for _ in range(2):
            (rows,) = ENGINE.compute(job, [group], dict.fromkeys(group.clients, memory))
            assert_close(rows[1], loop_of(job, group, memory), 1e-12)  # type: ignore[arg-type]
    (line,) = caplog.messages
    assert "vmap computes it: RuntimeError: no space left on device" in line


def test_only_so_many_shapes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(compiled, "_compile", lambda *arguments: asked.append(arguments))
    job, memory = job_of(FOMAML(inner=GradientSteps(steps=0)), problem_of("softplus"))
    for query in range(1, 12):
        group = group_of((2, query), clients=2)
        (rows,) = ENGINE.compute(job, [group], dict.fromkeys(group.clients, memory))
        assert rows.clients == group.clients
    assert len(asked) == 8
