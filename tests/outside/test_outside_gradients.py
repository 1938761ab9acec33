"""What the strategies of this folder send is right, by ways that share no code with them."""

import dataclasses
import math

import pytest
import torch

from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.meta_gradient import meta_gradient
from fedmaml.core.networks import MLP
from fedmaml.core.params import (
    Params,
    flatten,
    layout_of,
    map_params,
    squared_distance,
    unflatten,
)
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, first_task, joined
from fedmaml.simulations.scenarios.quadratic import Quadratic
from fedmaml.strategies import CATALOGUE
from fedmaml.verification import (
    TOLERANCE,
    _classification_problem,
    _classification_task,
    _with_noise,
    check_all,
    finite_differences,
)
from tests.outside.anil import ANIL
from tests.outside.catalogue import OUTSIDE
from tests.outside.cavia import CAVIA
from tests.outside.ditto import Ditto
from tests.outside.formulas import FORMULAS, ditto_personal, system
from tests.outside.imaml import IMAML, conjugate_gradients
from tests.outside.matching import Matching


@pytest.mark.parametrize("name", OUTSIDE)
def test_gradient_checks_find_it_right(name: str) -> None:
    results = check_all(name)
    takes_steps = name not in ("matching", "recurrent_policy")
    assert len(results) == 1 + takes_steps  # with mini-batches, too
    kind = "formula" if name in FORMULAS else "finite differences"
    for result in results:
        assert kind in result.reference
        assert result.relative_error <= TOLERANCE
        # Differences are never equal to the last bit, two ways through the same operations may be.
        assert result.relative_error > 0 or name == "ditto"


def _off(cls: type, factor: float) -> type:
    def client_update(self, learner, meta, memory, task):
        right = cls.client_update(self, learner, meta, memory, task)
        update = {g: map_params(lambda v: v * factor, p) for g, p in right.update.items()}
        return right._replace(update=update)

    return settings(type("Off", (cls,), {"__annotations__": {}, "client_update": client_update}))


@pytest.mark.parametrize("name", ["anil", "imaml", "ditto"])
def test_an_update_off_by_a_hundred_thousandth_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOGUE, name, _off(OUTSIDE[name], 1 + 1e-5))
    assert all(result.relative_error > TOLERANCE for result in check_all(name))


def _moved(predictor, theta: Params) -> set[str]:
    fast = predictor.args[0]
    return {name for name, value in fast.items() if not torch.equal(value, theta[name])}


def test_anil_moves_the_head_alone(classification) -> None:
    strategy = ANIL(inner=GradientSteps(lr=0.1, steps=3))
    start = strategy.build(classification.problem, seeding.generator(0))
    theta = start.state.meta["theta"]
    predictor = strategy.adapt(
        start.learner, start.state.meta, start.memory, classification.task().support
    )
    moved = _moved(predictor, theta)
    assert moved == {"head.weight", "head.bias"}
    update = strategy.client_update(
        start.learner, start.state.meta, start.memory, classification.task()
    )
    assert all(bool(value.abs().max() > 0) for value in update.update["theta"].values())


def test_cavia_moves_one_bias_alone(classification) -> None:
    strategy = CAVIA(inner=GradientSteps(lr=0.1, steps=3))
    start = strategy.build(classification.problem, seeding.generator(0))
    theta = start.state.meta["theta"]
    predictor = strategy.adapt(
        start.learner, start.state.meta, start.memory, classification.task().support
    )
    moved = _moved(predictor, theta)
    assert moved == {"body.0.bias"}
    assert start.state.meta["context"]["body.0.bias"].shape == (6, 5)


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


# --- iMAML ------------------------------------------------------------------------------------


def test_imaml_solves_the_implicit_equation() -> None:
    """With enough conjugate steps the update is (I + H / lam)^-1 grad L_query by a dense solve."""
    strategy = IMAML(inner=GradientSteps(lr=0.1, steps=20), conjugate=60, lam=1.0)
    start = strategy.build(_classification_problem(), seeding.generator(0))
    meta, task = start.state.meta, _with_noise(_classification_task(), strategy)
    matrix, slope = system(strategy, start, meta, task)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > 0
    assert eigenvalues.max() > 1.1 * eigenvalues.min()  # the solve is no matter of scale
    expected = torch.linalg.solve(matrix, slope)
    sent = strategy.client_update(start.learner, meta, {}, task)
    torch.testing.assert_close(flatten(sent.update["theta"]), expected, rtol=1e-9, atol=1e-12)
    assert (expected - slope).norm() > 0.05 * slope.norm()  # and not the first-order gradient


def test_imaml_converged_is_the_gradient_of_its_objective() -> None:
    """On f(phi) = 1/2 (phi - c)' A (phi - c), where phi* = (A + lam I)^-1 (A c + lam theta).

    Eigenvalues of A + lam I are 2 to 3.5, so 60 steps of 0.2 leave 0.6^60 = 5e-14 of the way.
    d phi* / d theta = lam (A + lam I)^-1, so g = lam (A + lam I)^-1 A (phi* - c).
    """
    scenario = Quadratic(seed=3)
    task = first_task(scenario.tasks("train", [1], 1, {})[0].tasks)
    problem = dataclasses.replace(scenario.problem(), dtype=torch.float64)
    strategy = IMAML(inner=GradientSteps(lr=0.2, steps=60), conjugate=6, lam=1.5)
    start = strategy.build(problem, seeding.generator(0))
    theta = torch.linspace(-1, 2, 6, dtype=torch.float64)
    layout = layout_of(start.state.meta["theta"])
    meta = {"theta": unflatten(theta, layout)}
    curvature, centre = scenario.parameters_of(1)
    stiff = curvature + strategy.lam * torch.eye(6, dtype=torch.float64)
    optimum = torch.linalg.solve(stiff, curvature @ centre + strategy.lam * theta)
    expected = strategy.lam * torch.linalg.solve(stiff, curvature @ (optimum - centre))
    sent = flatten(strategy.client_update(start.learner, meta, {}, task).update["theta"])
    torch.testing.assert_close(sent, expected, rtol=1e-10, atol=1e-12)
    slopes = flatten(finite_differences(strategy, start, meta, task)["theta"])
    torch.testing.assert_close(sent, slopes, rtol=1e-7, atol=1e-8)
    exact, _ = meta_gradient(strategy.adapt, start.learner, meta, {}, task)
    torch.testing.assert_close(sent, flatten(exact["theta"]), rtol=1e-10, atol=1e-12)


def test_conjugate_gradients_stay_finite_once_they_are_done() -> None:
    right = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
    solved = conjugate_gradients(lambda v: map_params(lambda x: 2 * x, v), right, 10)
    assert torch.equal(flatten(solved), torch.tensor([0.5, 1.0, 1.5]))
    zero = map_params(torch.zeros_like, right)
    assert torch.equal(flatten(conjugate_gradients(lambda v: v, zero, 3)), torch.zeros(3))


# --- Ditto ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 4])
def test_ditto_keeps_a_personal_model_over_rounds(batch: int) -> None:
    """Two rounds by plain loops: v starts at theta of the first, goes on from itself after it."""
    steps = GradientSteps(lr=0.1, steps=3, batch=batch)
    strategy = Ditto(inner=steps, adaptation=steps, lam=0.5)
    start = strategy.build(_classification_problem(), seeding.generator(0))
    task = _with_noise(_classification_task(), strategy)
    theta = map_params(lambda value: value + 0.3, start.state.meta["theta"])  # it moved since
    local = joined(task)
    memory, expected = start.memory, theta
    for round in range(2):
        meta = {"theta": map_params(lambda value, by=round: value * (1 - 0.1 * by), theta)}
        memory = strategy.client_update(start.learner, meta, memory, task).memory
        expected = ditto_personal(strategy, start, meta, expected, local)
        assert bool(memory["took_part"])
        for name, value in expected.items():
            torch.testing.assert_close(memory[f"v.{name}"], value, rtol=1e-12, atol=1e-13)
    # The pull to theta matters, and so does the way from round to round.
    free = dataclasses.replace(strategy, lam=0.0).client_update(start.learner, meta, memory, task)
    pulled = strategy.client_update(start.learner, meta, memory, task)
    anew = strategy.client_update(start.learner, meta, start.memory, task)
    assert _distance(pulled.memory, meta["theta"]) < _distance(free.memory, meta["theta"])
    assert _distance(anew.memory, expected) > 1e-3


def _distance(memory: Params, point: Params) -> float:
    return float(squared_distance({name: memory[f"v.{name}"] for name in point}, point))
