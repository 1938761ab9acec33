"""A node's cohort: chunks, groups, and clients that fail without harming the others."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmaml.computing import evaluation, updates
from fedmaml.computing.accumulator import Trained
from fedmaml.computing.chunks import Chunk, Tasks
from fedmaml.computing.costs import Costs
from fedmaml.computing.engines import Job, Memories, plan
from fedmaml.core import seeding
from fedmaml.core.aggregation import ExactSum
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.requests import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape, unstack
from fedmaml.strategies import MAML, FedRep, ProtoNet
from fedmaml.strategies.base import Initialised, MetaStrategy
from tests.conftest import Example

CLIENTS = (0, 1, 2, 3, 4)


def start_of(strategy: MetaStrategy, example: Example) -> Initialised:
    return strategy.build(example.problem, seeding.generator(0, "init"))


def tasks_of(example: Example, spoil: int | None = None, value: float = 0.0) -> Tasks:
    def tasks(clients: Sequence[int]) -> list[TaskGroup]:
        chosen = {client: example.task(client) for client in clients}
        if spoil in chosen:
            x, y = chosen[spoil].support
            chosen[spoil] = Task(Batch(x * 0 + value, y), chosen[spoil].query)
        return group_by_shape(chosen)

    return tasks


def train(
    example: Example, tasks: Tasks, batch: int, strategy: MetaStrategy | None = None
) -> TrainReply:
    strategy = strategy or MAML()
    start = start_of(strategy, example)
    request = TrainRequest(1, CLIENTS, start.state.meta, "stack")
    memories = dict.fromkeys(CLIENTS, start.memory)
    return updates.train(strategy, start.learner, request, tasks, memories, batch)[0]


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_chunks_agree(classification: Example, batch: int) -> None:
    whole = train(classification, tasks_of(classification), 5)
    chunked = train(classification, tasks_of(classification), batch)
    assert chunked.clients == whole.clients == CLIENTS
    for group, rows in whole.update.items():
        torch.testing.assert_close(chunked.update[group], rows, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("engine", "shares"), [("loop", [3, 2]), ("vmap", [])])
def test_workers_share_a_chunk_only_where_that_changes_no_bit(
    classification: Example, engine: str, shares: list[int]
) -> None:
    start = start_of(MAML(), classification)
    request = TrainRequest(1, CLIENTS, start.state.meta, "stack")
    memories = dict.fromkeys(CLIENTS, start.memory)
    tasks = tasks_of(classification)
    job = Job(MAML(), start.learner, request.meta, request.form)
    seen: list[int] = []

    class Two:
        """Two workers that are this process."""

        workers = 2

        def train(
            self,
            engine: str,
            request: TrainRequest,
            chunks: Sequence[Chunk],
            memories: Memories,
            costs: Costs,
        ) -> Iterator[Trained]:
            seen.extend(map(len, chunks))
            for chunk in chunks:
                part, by = replace(request, clients=chunk), plan(engine, job).engine
                yield updates.train_chunk(job, by, part, tasks, memories, costs)

        def evaluate(self, *_: object) -> Iterator[EvaluateReply]:
            raise AssertionError("nothing is evaluated here")

    arguments = (MAML(), start.learner, request, tasks, memories)
    alone = updates.train(*arguments, engine=engine)[0]
    shared = updates.train(*arguments, engine=engine, executor=Two())[0]
    assert seen == shares
    assert shared.clients == alone.clients
    for group, rows in alone.update.items():
        assert torch.equal(shared.update[group], rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_client_whose_numbers_are_not_finite_is_left_out_alone(
    classification: Example, batch: int, value: float
) -> None:
    good = train(classification, tasks_of(classification), batch)
    reply = train(classification, tasks_of(classification, spoil=3, value=value), batch)
    assert reply.clients == (0, 1, 2, 4)
    (rejection,) = reply.rejected
    assert (rejection.reason, rejection.clients) == ("DATA", (3,))
    rows, expected = reply.update["theta"], good.update["theta"]
    assert isinstance(rows, Tensor)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(rows, expected[[0, 1, 2, 4]], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batch", [1, 5])
def test_client_whose_data_raise_is_left_out_and_its_text_stays_at_home(
    classification: Example, batch: int
) -> None:
    good = tasks_of(classification)

    def tasks(clients: Sequence[int]) -> list[TaskGroup]:
        if 2 in clients:
            raise KeyError("patient 17")
        return good(clients)

    reply = train(classification, tasks, batch)
    assert reply.clients == (0, 1, 3, 4)
    (rejection,) = reply.rejected
    assert (rejection.reason, rejection.clients) == ("RAISED", (2,))
    assert "KeyError" in rejection.detail
    assert "patient 17" not in rejection.detail


def test_client_whose_computation_raises_is_left_out(classification: Example) -> None:
    good = tasks_of(classification)

    def tasks(clients: Sequence[int]) -> list[TaskGroup]:
        chosen = {client: classification.task(client) for client in clients}
        if 1 in chosen:  # one feature too many
            x, y = chosen[1].support
            chosen[1] = Task(Batch(torch.cat([x, x[:, :1]], 1), y), chosen[1].query)
        return group_by_shape(chosen)

    reply = train(classification, tasks, 5)
    assert reply.clients == (0, 2, 3, 4)
    assert reply.rejected[0].reason == "RAISED"
    assert train(classification, good, 5).rejected == ()
    assert train(classification, tasks, 5).engines == {"vmap": 4}


def test_network_that_cannot_be_vmapped_is_computed_one_by_one(
    classification: Example, caplog: pytest.LogCaptureFixture
) -> None:
    class Branching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if float(x.detach().sum()) > 1e9:  # reads a value: impossible under vmap
                return self.head(-x)
            return self.head(x)

    problem = Problem(
        Branching,
        lambda logits, y: torch.nn.functional.cross_entropy(logits, y, reduction="none"),
        (ACCURACY,),
        classes=3,
        dtype=torch.float64,
    )
    example = Example(problem, classification.tasks)
    reply = train(example, tasks_of(example), 5)
    assert reply.clients == CLIENTS
    assert "one by one" in caplog.text
    assert reply.engines == {"loop": len(CLIENTS)}  # who computed, and not who was to
    alone = train(example, tasks_of(example), 1)
    assert torch.equal(reply.update["theta"], alone.update["theta"])  # type: ignore[arg-type]


def test_every_update_is_counted_for_the_engine_that_computed_it(classification: Example) -> None:
    class ReadsValuesOfThree(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 3 and float(x.detach().sum()) > 1e9:  # impossible under vmap
                return self.head(-x)
            return self.head(x)

    def tasks(clients: Sequence[int]) -> list[TaskGroup]:
        chosen = {client: classification.task(client) for client in clients}
        for client in {3, 4} & set(chosen):
            (x, y, *_), query = chosen[client]
            chosen[client] = Task(Batch(x[:3], y[:3]), query)
        return group_by_shape(chosen)

    problem = replace(classification.problem, network=ReadsValuesOfThree)
    reply = train(Example(problem, classification.tasks), tasks, 5)
    assert reply.clients == CLIENTS
    assert reply.engines == {"vmap": 3, "loop": 2}


def test_sum_is_sent_where_it_is_smaller_and_equals_the_stack(classification: Example) -> None:
    strategy = MAML()
    start = start_of(strategy, classification)
    memories = dict.fromkeys(CLIENTS, start.memory)
    replies = [
        updates.train(
            strategy,
            start.learner,
            TrainRequest(1, CLIENTS, start.state.meta, form),  # type: ignore[arg-type]
            tasks_of(classification),
            memories,
            5,
        )[0]
        for form in ("sum", "stack")
    ]
    total, stack = (reply.update["theta"] for reply in replies)
    assert isinstance(total, ExactSum)  # 5 float64 rows are larger than 3 limbs
    assert isinstance(stack, Tensor)
    weights = torch.tensor(replies[1].weights, dtype=torch.float64)
    torch.testing.assert_close(total.mean(), (weights @ stack) / weights.sum())


def test_memory_of_a_rejected_client_stays_as_it_was(classification: Example) -> None:
    strategy = FedRep()
    start = start_of(strategy, classification)
    request = TrainRequest(1, CLIENTS, start.state.meta, "stack")
    memories = dict.fromkeys(CLIENTS, start.memory)
    tasks = tasks_of(classification, spoil=3, value=float("nan"))
    _, kept, _ = updates.train(strategy, start.learner, request, tasks, memories, 5)
    assert set(kept) == {0, 1, 2, 4}


def test_evaluation_leaves_out_a_client_whose_numbers_are_not_finite(
    classification: Example,
) -> None:
    strategy = MAML()
    start = start_of(strategy, classification)
    request = EvaluateRequest(1, "test", CLIENTS, start.state.meta, (1, 2))
    tasks = tasks_of(classification, spoil=3, value=float("nan"))
    memories = dict.fromkeys(CLIENTS, start.memory)
    reply = evaluation.evaluate(strategy, start.learner, request, tasks, memories, 5)
    assert set(reply.values) == {f"accuracy:{s}" for s in ("before", "after", "after@1", "after@2")}
    assert [(each.reason, each.clients) for each in reply.rejected] == [("DATA", (3,))]
    assert reply.clients == (0, 1, 2, 4)


def test_fewer_shots_are_the_first_of_each_class(classification: Example) -> None:
    strategy = ProtoNet()
    start = start_of(strategy, classification)
    tasks = tasks_of(classification)
    memories = dict.fromkeys(CLIENTS, start.memory)
    request = EvaluateRequest(1, "test", CLIENTS, start.state.meta, shots=(1, 2))

    def by_hand(chunk):
        (group,) = tasks(chunk)
        small = {}
        for client, (support, query) in unstack(group).items():
            rows = sorted(support.y.tolist().index(label) for label in support.y.unique())
            small[client] = Task(Batch(support.x[rows], support.y[rows]), query)
        return group_by_shape(small)

    reply = evaluation.evaluate(strategy, start.learner, request, tasks, memories, 5)
    wanted = evaluation.evaluate(strategy, start.learner, request, by_hand, memories, 5)
    assert reply.values["accuracy:shots@1"] == wanted.values["accuracy:after"]
    assert reply.values["accuracy:shots@1"] != reply.values["accuracy:after"]
    assert reply.rejected == ()


def test_a_client_with_too_few_examples_is_undefined_at_so_many_shots(
    classification: Example,
) -> None:
    strategy = MAML()
    start = start_of(strategy, classification)
    request = EvaluateRequest(1, "test", CLIENTS, start.state.meta, shots=(1, 100))
    memories = dict.fromkeys(CLIENTS, start.memory)
    tasks = tasks_of(classification)
    reply = evaluation.evaluate(strategy, start.learner, request, tasks, memories, 5)
    assert reply.clients == CLIENTS
    assert np.isnan(reply.values["accuracy:shots@100"]).all()
    assert np.isfinite(reply.values["accuracy:shots@1"]).all()
    assert np.isfinite(reply.values["accuracy:after"]).all()
