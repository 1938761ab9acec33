"""What the strategies of this folder send is right, by ways that share no code with them."""

import math

import pytest
import torch

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.networks import MLP
from fedmaml.core.tasks import Batch
from fedmaml.verification import (
    TOLERANCE,
    check_all,
)
from tests.outside.catalogue import OUTSIDE
from tests.outside.matching import Matching


@pytest.mark.parametrize("name", OUTSIDE)
def test_gradient_checks_find_it_right(name: str) -> None:
    (result,) = check_all(name)
    assert "finite differences" in result.reference
    # Differences are never equal to the last bit.
    assert 0 < result.relative_error <= TOLERANCE


def test_matching_weighs_examples_by_their_angle() -> None:
    """Support at 0, 90 and 90 degrees of classes 0, 1, 1; a query at 0, scale log 3.

    Weights exp(log 3 * cos) are 3, 1, 1, so the probabilities are 3/5 and 2/5.
    """
    strategy = Matching(scale=math.log(3))
    problem = Problem(lambda: MLP((2, 2, 2), abs), cross_entropy, (), classes=2)
    start = strategy.build(problem, seeding.generator(0))
    meta = {
        "theta": {"body.0.weight": torch.eye(2).double(), "body.0.bias": torch.zeros(2).double()}
    }
    support = Batch(torch.tensor([[2.0, 0], [0, 1], [0, 5]]).double(), torch.tensor([0, 1, 1]))
    predictor = strategy.adapt(start.learner, meta, {}, support)
    logits = predictor(torch.tensor([[0.5, 0]]).double())
    expected = torch.tensor([[0.6, 0.4]]).double()
    torch.testing.assert_close(logits.softmax(-1), expected, atol=1e-5, rtol=0)


def test_recurrent_policy_reads_its_support_by_its_equations(classification) -> None:
    """One query and one step after the other, by the equations of its docstring."""
    strategy = OUTSIDE["recurrent_policy"](width=4)
    start = strategy.build(classification.problem, seeding.generator(0))
    meta, task = start.state.meta, classification.task()
    predictions = strategy.adapt(start.learner, meta, {}, task.support)(task.query.x)
    cell = meta["cell"]
    width = 4

    def embedded(x):
        return torch.tanh(x @ meta["theta"]["body.0.weight"].T + meta["theta"]["body.0.bias"])

    def step(h, u):
        z = torch.sigmoid(cell["z.weight"] @ torch.cat([u, h]))
        r = torch.sigmoid(cell["r.weight"] @ torch.cat([u, h]))
        n = torch.tanh(
            cell["candidate.weight"][:, :-width] @ u
            + cell["candidate.weight"][:, -width:] @ (r * h)
        )
        return z * h + (1 - z) * n

    hidden = torch.zeros(width, dtype=torch.float64)
    for x, y in zip(embedded(task.support.x), task.support.y, strict=True):
        hidden = step(hidden, torch.cat([x, torch.eye(3, dtype=torch.float64)[y]]))
    for x, predicted in zip(embedded(task.query.x), predictions, strict=True):
        state = step(hidden, torch.cat([x, torch.zeros(3, dtype=torch.float64)]))
        torch.testing.assert_close(predicted, cell["readout.weight"] @ state)


def test_recurrent_policy_depends_on_the_order_of_its_support(classification) -> None:
    strategy = OUTSIDE["recurrent_policy"]()
    start = strategy.build(classification.problem, seeding.generator(0))
    task = classification.task()
    turned = Batch(task.support.x.flip(0), task.support.y.flip(0))
    one, other = (
        strategy.adapt(start.learner, start.state.meta, {}, support)(task.query.x)
        for support in (task.support, turned)
    )
    assert not torch.allclose(one, other)
