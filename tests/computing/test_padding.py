"""Clients of many sizes share few computations, and nothing but rounding shows it."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from fedmaml.computing.engines import ENGINES, Job
from fedmaml.computing.engines.padding import cheapest_cuts, merge_groups
from fedmaml.core import losses, seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Learner, Predictor, Problem
from fedmaml.core.networks import MLP
from fedmaml.core.params import MetaParams, Params, flatten
from fedmaml.core.tasks import Batch, Task, TaskGroup, example_count, group_by_shape, joined, padded
from fedmaml.strategies import (
    APFL,
    CATALOGUE,
    FOMAML,
    MAML,
    Ditto,
    FedAvg,
    FedBABU,
    FedProx,
    PerFedAvgFO,
    PerFedAvgHF,
    PFedMe,
    Reptile,
)
from fedmaml.strategies.base import ClientUpdate, Facts, Initialised, MetaStrategy, ServerState
from tests.catalogue import AMPLIFY, FOUNDING, slow_unless
from tests.conftest import REGRESSORS

SIZES = [(count, 1 + count * 3 % 7) for count in range(1, 11)] * 2  # ten shapes


def problem_of(dtype: torch.dtype = torch.float64, outputs: int = 3) -> Problem:
    def network() -> nn.Module:
        return MLP((4, 6, 5, outputs), torch.tanh)

    if outputs == 1:
        return Problem(network, losses.squared_error, (), l2=0.01, dtype=dtype)
    return Problem(network, losses.cross_entropy, (), classes=3, l2=0.01, dtype=dtype)


def tasks_of(
    dtype: torch.dtype = torch.float64, sizes: list[tuple[int, int]] = SIZES
) -> list[TaskGroup]:
    tasks = {}
    for client, (support, query) in enumerate(sizes):
        rng = seeding.generator(0, "task", client)
        x = torch.randn(support + query, 4, generator=rng, dtype=dtype)
        y = torch.randint(0, 3, (support + query,), generator=rng)
        tasks[client] = Task(Batch(x[:support], y[:support]), Batch(x[support:], y[support:]))
    return group_by_shape(tasks)


def regressions(tasks: Task) -> Task:
    """Return the same inputs with a target that is a function of them."""
    return Task(*(Batch(x, x[..., :1] - x[..., 1:2].square()) for x, _ in tasks))


def job_of(strategy: MetaStrategy, problem: Problem) -> tuple[Job, dict[int, Params]]:
    start = strategy.build(problem, seeding.generator(0, "init"))
    job = Job(strategy, start.learner, start.state.meta, "stack")
    return job, dict.fromkeys(range(len(SIZES)), start.memory)


def small(strategy: type[MetaStrategy]) -> MetaStrategy:
    built = strategy()
    if not hasattr(built, "inner"):
        return built
    return replace(built, inner=GradientSteps(lr=0.1, steps=3))  # type: ignore[type-var]


def results(
    engine: str, job: Job, groups: list[TaskGroup], memories: dict[int, Params]
) -> dict[int, dict[str, Tensor]]:
    """Return client -> its update, memory, weight and metrics, each as a vector."""
    found = {}
    for part in ENGINES[engine].compute(job, groups, memories):
        trees = part.results.update | {"memory": part.results.memory}  # type: ignore[union-attr]
        values = {name: flatten(tree, batch_axes=1) for name, tree in trees.items() if tree}
        values |= part.results.metrics  # type: ignore[union-attr]
        values["weight"] = part.results.weight  # type: ignore[union-attr]
        for i, client in enumerate(part.clients):
            found[client] = {name: value[i] for name, value in values.items()}
    return found


@pytest.mark.parametrize(
    ("strategy", "dtype"),
    [
        slow_unless((name in FOUNDING and dtype == torch.float64) or name == "maml", name, dtype)
        for name in CATALOGUE
        for dtype in (torch.float64, torch.float32)
    ],
)
def test_padded_clients_equal_the_loop(strategy: str, dtype: torch.dtype) -> None:
    tolerance = (1e-12 if dtype == torch.float64 else 1e-5) * (100 if strategy in AMPLIFY else 1)
    outputs = 1 if strategy in REGRESSORS else 3
    job, memories = job_of(small(CATALOGUE[strategy]), problem_of(dtype, outputs))
    groups = tasks_of(dtype)
    if outputs == 1:
        groups = [TaskGroup(group.clients, regressions(group.tasks)) for group in groups]
    assert len(groups) == 10
    merged = len(list(merge_groups(job, groups, memories)))
    assert merged < 6 if job.strategy.facts.takes_masks else merged == 10
    expected = results("loop", job, groups, memories)
    got = results("vmap", job, groups, memories)
    assert set(got) == set(expected) == set(range(len(SIZES)))
    differ = (Reptile, FedAvg, FedProx, Ditto, APFL, FedBABU, PFedMe, PerFedAvgFO, PerFedAvgHF)
    for client, values in expected.items():
        assert got[client].keys() == values.keys()
        for name, reference in values.items():
            allowed = tolerance * max(reference.norm(), 1e-1)
            if isinstance(job.strategy, differ) and name == "theta":
                allowed += torch.finfo(dtype).eps * flatten(job.meta["theta"]).norm()
            assert (got[client][name] - reference).norm() <= allowed, (client, name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_client_that_diverges_does_not_touch_those_padded_with_it(value: float) -> None:
    job, memories = job_of(small(MAML), problem_of())
    groups = tasks_of()
    good = results("vmap", job, groups, memories)
    groups[3].tasks.support.x[0, 0] = value
    bad = results("vmap", job, groups, memories)
    spoiled = groups[3].clients[0]
    for client in set(good) - {spoiled}:
        torch.testing.assert_close(bad[client], good[client], rtol=1e-12, atol=1e-12)


class Normalised(nn.Module):
    """A network whose rows depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)
        self.head = nn.Linear(6, 3)
        nn.init.zeros_(self.head.weight)  # hides at the start what happens before

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(torch.relu(self.norm(self.first(x))))
        return output


def relative_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return losses that depend on each other, though there is one for each example."""
    each = losses.cross_entropy(logits, y)
    return each / each.detach().mean()


@pytest.mark.parametrize("strategy", ["maml", "protonet", "fedrep", "local"])
def test_batch_normalisation_is_never_padded(strategy: str) -> None:
    problem = replace(problem_of(), network=Normalised)
    job, memories = job_of(small(CATALOGUE[strategy]), problem)
    groups = tasks_of(sizes=[(support + 2, query + 2) for support, query in SIZES])
    assert list(map(id, merge_groups(job, groups, memories))) == list(map(id, groups))
    torch.testing.assert_close(
        results("vmap", job, groups, memories),
        results("loop", job, groups, memories),
        rtol=1e-10,
        atol=1e-10,
    )


def test_losses_that_depend_on_each_other_are_never_padded() -> None:
    job, memories = job_of(small(FOMAML), replace(problem_of(), loss=relative_loss))
    groups = tasks_of()
    assert list(map(id, merge_groups(job, groups, memories))) == list(map(id, groups))


@dataclass(frozen=True)
class Own(MetaStrategy):
    """Counts rows itself."""

    facts = Facts("Own", adapts_by="")

    inner: FOMAML

    def build(self, problem: Problem, rng: torch.Generator) -> Initialised:
        return self.inner.build(problem, rng)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        return self.inner.adapt(learner, meta, memory, support)

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        update = self.inner.client_update(learner, meta, memory, task)
        return update._replace(weight=torch.tensor(float(task.query.y.shape[0])))

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        return self.inner.server_update(state, update)


def test_strategies_that_may_count_rows_are_never_padded() -> None:
    job, memories = job_of(Own(FOMAML()), problem_of())
    groups = tasks_of()
    assert list(map(id, merge_groups(job, groups, memories))) == list(map(id, groups))


def test_few_shapes_keep_their_groups() -> None:
    job, memories = job_of(small(MAML), problem_of())
    groups = tasks_of()[:6]
    assert list(map(id, merge_groups(job, groups, memories))) == list(map(id, groups))


def test_tasks_of_other_features_and_empty_ones_are_not_mixed() -> None:
    job, memories = job_of(small(MAML), problem_of())
    groups = tasks_of()
    empty = tasks_of(sizes=[(0, 3)])[0]._replace(clients=(100,))
    wide = tasks_of()[0]
    wide = TaskGroup((200, 201), Task(*(Batch(batch.x[..., :2], batch.y) for batch in wide.tasks)))
    made = list(merge_groups(job, [*groups, empty, wide], memories))
    assert {group.clients for group in made} >= {(100,), (200, 201)}
    assert sum(len(group.clients) for group in made) == len(SIZES) + 3


def test_counts_and_joined_leave_padding_out() -> None:
    group = tasks_of(sizes=[(2, 3)])[0]
    task = Task(*(type(b)(*(v[0] for v in b)) for b in padded([group], 5, 4).tasks))
    assert float(example_count(task.support)) == 2
    assert float(example_count(joined(task))) == 5
    assert joined(task).x.shape == (9, 4)
    assert torch.equal(task.support.x[2:], task.support.x[:1].expand(3, -1))
    assert float(example_count(group.tasks.support)) == 1  # not padded: rows of the leading axis


def cost(
    sizes: list[tuple[int, int, int]], pieces: list[tuple[int, int]], dispatch: float
) -> float:
    total = 0.0
    for first, last in pieces:
        counts, supports, queries = zip(*sizes[first:last], strict=True)
        total += dispatch + sum(counts) * (max(supports) + max(queries))
    return total


@pytest.mark.parametrize("dispatch", [0.0, 3.0, 20.0, 1e9])
def test_cuts_cost_least_of_all(dispatch: float) -> None:
    sizes = [(3, 1, 2), (1, 2, 1), (5, 2, 4), (2, 5, 1), (9, 4, 4), (1, 3, 9), (4, 9, 9)]
    made = cheapest_cuts(sizes, dispatch)
    assert [first for first, _ in made] == [0, *(last for _, last in made[:-1])]
    assert made[-1][1] == len(sizes)
    every = [
        list(itertools.pairwise([0, *cuts, len(sizes)]))
        for number in range(len(sizes))
        for cuts in itertools.combinations(range(1, len(sizes)), number)
    ]
    assert cost(sizes, made, dispatch) == min(cost(sizes, pieces, dispatch) for pieces in every)
