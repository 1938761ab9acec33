"""Strategies that adapt by gradient steps, by hand and against each other."""

import dataclasses
import math

import pytest
import torch

from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.meta_gradient import meta_gradient
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import LinearModel
from fedmaml.core.params import Params, flatten, layout_of, map_params, unflatten
from fedmaml.core.tasks import first_task
from fedmaml.simulations.scenarios.quadratic import Quadratic
from fedmaml.strategies import (
    ANIL,
    BOIL,
    CAVIA,
    FOMAML,
    IMAML,
    LSLR,
    MAML,
    MAP,
    LearnedMomentum,
    MetaGradientDescent,
    MetaLSTM,
    Truncated,
)
from fedmaml.strategies.imaml import conjugate_gradients
from fedmaml.verification import (
    _classification_problem,
    _classification_task,
    _with_noise,
    finite_differences,
)
from fedmaml.verification.implicit import system

STEPS = GradientSteps(lr=0.1, steps=3)


def sent(strategy, example, **meta: torch.Tensor):
    """Return what a client of an example sends, group by group, and what was built."""
    start = strategy.build(example.problem, seeding.generator(0))
    update = strategy.client_update(start.learner, start.state.meta, start.memory, example.task())
    return update.update, start


# --- what moves -------------------------------------------------------------------------------


def moved(strategy, example) -> set[str]:
    start = strategy.build(example.problem, seeding.generator(0))
    predictor = strategy.adapt(
        start.learner, start.state.meta, start.memory, example.task().support
    )
    fast, theta = predictor.args[0], start.state.meta["theta"]
    return {name for name, value in fast.items() if not torch.equal(value, theta[name])}


BODY, HEAD = {"body.0.weight", "body.0.bias"}, {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [(ANIL(inner=STEPS), HEAD), (BOIL(inner=STEPS), BODY), (CAVIA(inner=STEPS), {"body.0.bias"})],
    ids=lambda value: type(value).__name__,
)
def test_adaptation_moves_its_part_alone_and_everything_is_learned(
    strategy, expected: set[str], classification
) -> None:
    assert moved(strategy, classification) == expected
    update, _ = sent(strategy, classification)
    assert set(update["theta"]) == BODY | HEAD
    assert all(bool(value.abs().max() > 0) for value in update["theta"].values())


def test_cavia_has_its_context_in_the_first_bias_and_needs_one(classification) -> None:
    _, start = sent(CAVIA(inner=STEPS), classification)
    assert start.state.meta["context"]["body.0.bias"].shape == (6, 5)
    problem = Problem(lambda: LinearModel(2, 1, bias=False), cross_entropy, (ACCURACY,))
    with pytest.raises(UnsupportedProblemError, match=r"LinearModel has none; .*bias=True"):
        CAVIA().build(problem, seeding.generator(0))


@pytest.mark.parametrize("cls", [ANIL, BOIL])
def test_a_network_that_is_all_head_is_refused(cls, parabola) -> None:
    with pytest.raises(UnsupportedProblemError, match="no layers before its head"):
        cls().build(parabola.problem, seeding.generator(0))


# --- truncated --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 2])
def test_truncated_lies_between_first_order_and_exact(batch: int, classification) -> None:
    steps = dataclasses.replace(STEPS, batch=batch)
    ends = {0: FOMAML(inner=steps), 3: MAML(inner=steps), 7: MAML(inner=steps)}
    for last, known in ends.items():
        update, _ = sent(Truncated(inner=steps, last=last), classification)
        expected, _ = sent(known, classification)
        torch.testing.assert_close(
            flatten(update["theta"]), flatten(expected["theta"]), rtol=1e-13, atol=1e-15
        )
    exact, _ = sent(MAML(inner=steps), classification)
    far = [
        float((flatten(sent(Truncated(inner=steps, last=last), classification)[0]["theta"])
               - flatten(exact["theta"])).norm())
        for last in range(4)
    ]  # fmt: skip
    assert far[0] > far[1] > far[2] > far[3]


def test_truncated_by_hand(parabola) -> None:
    # phi_3 = 0.729 theta; through the last step alone d phi / d theta = 0.9.
    strategy = Truncated(inner=STEPS, last=1)
    start = strategy.build(parabola.problem, seeding.generator(0))
    meta = {"theta": {"head.weight": torch.ones(1, 1, dtype=torch.float64)}}
    update = strategy.client_update(start.learner, meta, {}, parabola.task()).update
    assert float(update["theta"]["head.weight"]) == pytest.approx(0.729 * 0.9, abs=1e-15)


# --- meta_lstm --------------------------------------------------------------------------------


def test_meta_lstm_with_fixed_gates_is_first_order_maml(classification) -> None:
    """f = 1 and i = lr, whatever it sees: its steps are those of gradient descent."""
    strategy = MetaLSTM(inner=STEPS)
    start = strategy.build(classification.problem, seeding.generator(0))
    fixed = map_params(torch.zeros_like, start.state.meta["optimizer"])
    fixed["keep.bias"] += 50.0
    fixed["rate.bias"] += math.log(0.1 / 0.9)
    meta = start.state.meta | {"optimizer": fixed}
    update = strategy.client_update(start.learner, meta, {}, classification.task()).update
    expected, _ = sent(FOMAML(inner=STEPS), classification)
    torch.testing.assert_close(
        flatten(update["theta"]), flatten(expected["theta"]), rtol=1e-12, atol=1e-15
    )


def test_meta_lstm_starts_near_gradient_descent_and_refuses_a_rate_of_one(classification) -> None:
    update, _ = sent(MetaLSTM(inner=STEPS), classification)
    expected, _ = sent(FOMAML(inner=STEPS), classification)
    near, far = flatten(update["theta"]), flatten(expected["theta"])
    assert (near - far).norm() < 0.05 * far.norm()
    assert flatten(update["optimizer"]).abs().max() > 0
    with pytest.raises(UnsupportedProblemError, match=r"inner.lr = 1: .*below 1"):
        MetaLSTM(inner=GradientSteps(lr=1.0)).build(classification.problem, seeding.generator(0))


# --- learned rates and momentum ---------------------------------------------------------------


def test_momentum_by_hand(parabola) -> None:
    # lr 0.1, beta 0.5 on theta^2 / 2 from 1: m = 1, phi = 0.9; m = 0.5 + 0.9, phi = 0.76.
    strategy = LearnedMomentum(inner=GradientSteps(lr=0.1, steps=2), momentum=0.5)
    start = strategy.build(parabola.problem, seeding.generator(0))
    meta = start.state.meta | {"theta": {"head.weight": torch.ones(1, 1, dtype=torch.float64)}}
    fast = strategy.adapt(start.learner, meta, {}, parabola.task().support).args[0]
    assert float(fast["head.weight"]) == pytest.approx(0.76, abs=1e-15)


def test_without_momentum_and_at_equal_rates_it_is_maml(classification) -> None:
    expected, _ = sent(MAML(inner=STEPS), classification)
    for strategy in (LearnedMomentum(inner=STEPS, momentum=0.0), LSLR(inner=STEPS, anneal=0)):
        update, _ = sent(strategy, classification)
        torch.testing.assert_close(
            flatten(update["theta"]), flatten(expected["theta"]), rtol=1e-12, atol=1e-15
        )


def test_lslr_weighs_all_steps_at_first_and_the_last_in_the_end(classification) -> None:
    strategy = LSLR(inner=GradientSteps(lr=0.1, steps=4), anneal=2)
    update, start = sent(strategy, classification)
    state, weights = start.state, [start.state.meta["v"]["v"].tolist()]
    for _ in range(3):
        state = strategy.server_update(state, update)
        weights.append(state.meta["v"]["v"].tolist())
    assert weights == [[0.25] * 4, [0.125] * 3 + [0.625], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert not flatten(update["v"]).any()
    assert {value.shape for value in start.state.meta["alpha"].values()} == {(4,)}


def test_lslr_takes_more_steps_by_its_last_rate(classification) -> None:
    learner, state, _ = LSLR(inner=STEPS).build(classification.problem, seeding.generator(0))
    rates = map_params(lambda a: torch.tensor([0.1, 0.2, 0.3]).to(a), state.meta["alpha"])
    support = classification.task().support
    longer = LSLR(inner=GradientSteps(lr=9.0, steps=4))
    fast = longer.adapt(learner, state.meta | {"alpha": rates}, {}, support).args[0]
    expected: Params = state.meta["theta"]
    for rate in (0.1, 0.2, 0.3, 0.3):
        expected = GradientSteps(lr=rate, steps=1).run(learner.loss, expected, support)
    torch.testing.assert_close(flatten(fast), flatten(expected), rtol=1e-6, atol=1e-8)


def test_map_stays_at_the_prior_where_it_is_narrow(classification) -> None:
    """One step from the mean is MAML's; after it the precision pulls."""
    one = GradientSteps(lr=0.1, steps=1)
    update, start = sent(MAP(inner=one), classification)
    expected, _ = sent(MAML(inner=one), classification)
    assert flatten(update["rho"]).abs().max() == 0
    adapted = [
        flatten(MAP(inner=GradientSteps(lr=0.1, steps=9), precision=precision).adapt(
            start.learner,
            start.state.meta | {"rho": map_params(
                lambda r, p=precision: torch.full_like(r, p).log(), start.state.meta["rho"])},
            {}, classification.task().support).args[0])
        for precision in (1e-9, 1.0, 9.0)
    ]  # fmt: skip
    theta = flatten(start.state.meta["theta"])
    far = [float((fast - theta).norm()) for fast in adapted]
    assert far[0] > far[1] > far[2] > 0
    # d phi_1 / d theta = I - lr (H + P) + lr P: the prior moves with theta
    torch.testing.assert_close(flatten(update["theta"]), flatten(expected["theta"]))


def test_meta_gradient_descent_ignores_adaptation(classification) -> None:
    one, _ = sent(MetaGradientDescent(), classification)
    other, _ = sent(MetaGradientDescent(adaptation=STEPS), classification)
    assert torch.equal(flatten(one["theta"]), flatten(other["theta"]))


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
