"""Whatever a client's code raises is that client's failure; only signals end the process."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmaml.computing.evaluation import evaluate
from fedmaml.computing.updates import train
from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.failures import EndedItselfError, contained, said_of
from fedmaml.core.requests import EvaluateRequest, TrainReply, TrainRequest
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.strategies import FOMAML
from tests.conftest import Example

CLIENTS = (0, 1, 2, 3, 4)
BAD = 2
SECRET = "row 17 has label 9"


def ends(error: BaseException) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


def recurses() -> None:
    recurses()


KINDS: dict[str, tuple[Callable[[], None], str]] = {
    "ValueError": (ends(ValueError(SECRET)), "ValueError"),
    "MemoryError": (ends(MemoryError()), "MemoryError"),
    "RecursionError": (recurses, "RecursionError"),
    "SystemExit": (ends(SystemExit(SECRET)), "SystemExit"),
    "KeyboardInterrupt": (ends(KeyboardInterrupt(SECRET)), "KeyboardInterrupt"),
    "ours": (ends(ConfigurationError(SECRET)), "ConfigurationError"),
    "a class with a name": (ends(type(SECRET, (LookupError,), {})()), "LookupError"),
}


class Fragile(nn.Module):
    """A network that raises on inputs above a bound."""

    def __init__(self, raises: Callable[[], None]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self._raises = raises

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 1e5).any()):
            self._raises()
        return self.layer(x)


def tasks_of(example: Example) -> Callable[[Sequence[int]], list[TaskGroup]]:
    """Return tasks; those of the bad client have inputs that its network does not bear."""

    def tasks(clients: Sequence[int]) -> list[TaskGroup]:
        chosen = {client: example.task(client) for client in clients}
        if BAD in chosen:
            (x, y), query = chosen[BAD]
            chosen[BAD] = Task(Batch(x + 1e6, y), query)
        return group_by_shape(chosen)

    return tasks


def prepared(example: Example, raises: Callable[[], None]) -> tuple[Any, Any]:
    problem = replace(example.problem, network=lambda: Fragile(raises), dtype=torch.float64)
    return FOMAML(), FOMAML().build(problem, seeding.generator(1, "init"))


def trained(example: Example, raises: Callable[[], None], tasks: Any, engine: str) -> TrainReply:
    strategy, start = prepared(example, raises)
    request = TrainRequest(1, CLIENTS, start.state.meta)
    memories = dict.fromkeys(CLIENTS, start.memory)
    return train(strategy, start.learner, request, tasks, memories, engine=engine).reply


@pytest.mark.parametrize("engine", ["loop", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_may_raise_anything(kind: str, engine: str, classification: Example) -> None:
    raises, name = KINDS[kind]
    reply = trained(classification, raises, tasks_of(classification), engine)
    assert reply.clients == (0, 1, 3, 4)
    (rejection,) = reply.rejected
    assert rejection.clients == (BAD,)
    assert rejection.detail == (
        f"{name} in its computation (its text and place stay in the node's log)"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_may_raise_anything_in_an_evaluation(kind: str, classification: Example) -> None:
    raises, name = KINDS[kind]
    strategy, start = prepared(classification, raises)
    request = EvaluateRequest(1, "test", CLIENTS, start.state.meta)
    memories = dict.fromkeys(CLIENTS, start.memory)
    reply = evaluate(strategy, start.learner, request, tasks_of(classification), memories)
    assert reply.clients == (0, 1, 3, 4)
    assert reply.rejected[0].detail.startswith(f"{name} in its computation (")


@pytest.mark.parametrize("kind", KINDS)
def test_data_may_raise_anything(kind: str, classification: Example) -> None:
    raises, name = KINDS[kind]

    def tasks(clients: Sequence[int]) -> list[TaskGroup]:
        if BAD in clients:
            raises()
        return group_by_shape({client: classification.task(client) for client in clients})

    reply = trained(classification, lambda: None, tasks, "loop")
    assert reply.clients == (0, 1, 3, 4)
    (rejection,) = reply.rejected
    assert rejection.detail.startswith(f"{name} in reading its data (")
    assert SECRET not in rejection.detail


def test_a_signal_ends_the_process_and_is_nobodys_failure(classification: Example) -> None:
    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(10**6))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(classification, interrupted, tasks_of(classification), "loop")
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_contained_is_an_exception_and_others_pass() -> None:
    with pytest.raises(EndedItselfError, match="SystemExit"), contained():
        raise SystemExit(3)
    with pytest.raises(torch.cuda.OutOfMemoryError) as raised, contained():
        raise torch.cuda.OutOfMemoryError(SECRET)
    assert said_of(raised.value, "training").startswith("OutOfMemoryError in training (")
