"""What a client keeps matters: the head of its own with which FedRep is evaluated."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from fedmaml.client.memory import save_memories
from fedmaml.client.replies import answer_evaluate, prepare
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import Metric, Range
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.requests import EvaluateRequest, Used
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.flower_internals import become_server
from fedmaml.messages.evaluate import read_evaluate_reply
from fedmaml.strategies import FedRep

PREDICTION = Metric("prediction", "1", "higher", math.nan, lambda p, _y: p.mean())


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def layer(weight: float) -> Params:
    return {"weight": number(weight)[:, None], "bias": number(0.0)}


@pytest.mark.parametrize("batch", [0, 1])
def test_a_known_client_is_evaluated_with_its_own_head(batch: int) -> None:
    """The network is head * (2 x) + bias, all examples are x = 1 and y = 0, steps of rate .1.

    The loss is prediction^2 / 2, so that a step takes .1 * prediction * 2 from the head and .1 *
    prediction from the bias, and the prediction falls to (1 - .1 * (4 + 1)) = half of itself.
    """
    problem = Problem(
        lambda: MLP((1, 1, 1), lambda x: x), half_squared_error, (PREDICTION,), dtype=torch.float64
    )
    strategy = FedRep(adaptation=GradientSteps(lr=0.1, steps=1))
    prepared = replace(
        prepare(strategy, problem),
        initial_memory={f"head.{name}": value for name, value in layer(1.0).items()},
        client_batch=batch,
    )
    context = Context(1, 1, {}, RecordDict(), {})
    made = Used(1, "base")
    head = {f"head.{name}": value for name, value in layer(3.0).items()}
    save_memories(context, {4: head}, made)

    def tasks(clients: Sequence[int]) -> list[TaskGroup]:
        examples = Batch(
            torch.ones(len(clients), 2, 1, dtype=torch.float64),
            torch.zeros(len(clients), 2, dtype=torch.float64),
        )
        return [TaskGroup(tuple(clients), Task(examples, examples))]

    body = {f"body.0.{name}": value for name, value in layer(2.0).items()}
    request = EvaluateRequest(1, "test", (2, 4), {"theta": body}, used={4: made})
    become_server(1)
    message = Message(RecordDict(), dst_node_id=1, message_type="evaluate")
    content = answer_evaluate(message, request, context, prepared, tasks).content
    names = ("prediction:before", "prediction:after")
    reply = read_evaluate_reply(content, request, dict.fromkeys(names, Range()))
    assert reply.clients == (2, 4)
    # Client 2 is new: head 1, so 2 before and 1 after; client 4 has kept 3: 6 and 3.
    assert reply.values["prediction:before"] == pytest.approx([2.0, 6.0])
    assert reply.values["prediction:after"] == pytest.approx([1.0, 3.0])
