"""Bad data are named by client and in counts, by every strategy, and never believed."""

from collections.abc import Sequence

import pytest
import torch

from fedmaml.computing.engines.base import without
from fedmaml.computing.evaluation import evaluate
from fedmaml.computing.updates import train
from fedmaml.core import seeding
from fedmaml.core.records import Rejection
from fedmaml.core.requests import EvaluateRequest, TrainRequest
from fedmaml.core.tasks import TaskGroup
from fedmaml.strategies import CATALOGUE
from tests.catalogue import founding_first
from tests.computing.test_padding import problem_of, small, tasks_of
from tests.conftest import REGRESSORS

SIZES = [(4, 3), (5, 3), (4, 3), (4, 3)]
NAN, LABEL = 2, 3
DETAILS = {
    NAN: "1 of its 4 support examples have numbers that are not finite: correct these rows, or "
    "leave them out",
    LABEL: "2 of its 4 support examples and 1 of its 3 query examples have labels that are none of "
    "the 3 classes, which count from 0: correct these rows, or leave them out",
}


def bad_tasks(clients: Sequence[int]) -> list[TaskGroup]:
    groups = tasks_of(sizes=SIZES)
    for group in groups:
        for i, client in enumerate(group.clients):
            if client == NAN:
                group.tasks.support.x[i, 1, 0] = torch.nan
            if client == LABEL:
                group.tasks.support.y[i, :2] = torch.tensor([3, -1])
                group.tasks.query.y[i, 2] = 12345
    return without(groups, set(range(len(SIZES))) - set(clients))


@pytest.mark.parametrize("engine", ["auto", "loop"])
@pytest.mark.parametrize(
    "name", founding_first(name for name in CATALOGUE if name not in REGRESSORS)
)
def test_a_client_is_left_out_with_what_is_wrong(name: str, engine: str) -> None:
    strategy, problem = small(CATALOGUE[name]), problem_of()
    start = strategy.build(problem, seeding.generator(0, "init"))
    clients = tuple(range(len(SIZES)))
    memories = dict.fromkeys(clients, start.memory)
    expected = [Rejection("DATA", DETAILS[client], "", (client,)) for client in (LABEL, NAN)]
    if name != "local":
        request = TrainRequest(1, clients, start.state.meta)
        reply = train(strategy, start.learner, request, bad_tasks, memories, engine=engine).reply
        assert sorted(reply.rejected, key=str) == sorted(expected, key=str)
        assert sorted(reply.clients) == [0, 1]
    asked = EvaluateRequest(1, "test", clients, start.state.meta)
    result = evaluate(strategy, start.learner, asked, bad_tasks, memories, engine=engine)
    assert sorted(result.rejected, key=str) == sorted(expected, key=str)
    assert sorted(result.clients) == [0, 1]


def test_no_value_is_said() -> None:
    assert "12345" not in str(DETAILS)
    for value in ("nan", "-1", "inf"):
        assert value not in str(DETAILS)
