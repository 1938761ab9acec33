"""Tabular: what estimators of second derivatives yield in expectation, to rounding."""

import itertools

import pytest
import torch
from torch import Tensor

from fedmaml.core import score_function, seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.tasks import task_at
from fedmaml.simulations.environments.tables import (
    REWARD,
    TRANSITION,
    expected_return,
    trajectories,
)
from fedmaml.simulations.scenarios import Tabular
from fedmaml.simulations.scenarios.tabular import expected_loss
from fedmaml.strategies import CATALOGUE
from fedmaml.verification import TOLERANCE, _check_on_episodes
from fedmaml.verification.episodes import process_problem, process_task, takes_episodes

THETA, RATE = (0.3, -0.4), 0.5
TRUE = (0.37632623762079065, -0.43764261509042285)


def at(*theta: float) -> Tensor:
    return torch.tensor(theta, dtype=torch.float64, requires_grad=True)


def value(theta: Tensor) -> Tensor:
    return expected_return(theta, TRANSITION[None], REWARD[None])[0]


def hessian(estimator: str) -> Tensor:
    def loss(theta: Tensor) -> Tensor:
        found = trajectories(theta, TRANSITION[None], REWARD[None])._asdict()
        return -expected_loss(found, None, estimator)[0]

    return torch.autograd.functional.hessian(loss, at(*THETA))


def meta_gradient(strategy: str, estimator: str) -> tuple[list[float], float]:
    """Return the meta-gradient of the return, as a client sends it, and the loss afterwards."""
    algorithm = CATALOGUE[strategy](inner=GradientSteps(lr=RATE, steps=1))
    start = algorithm.build(process_problem(estimator), seeding.generator(0))
    meta = {"theta": {"logits": at(*THETA).detach()}}
    sent = algorithm.client_update(start.learner, meta, {}, process_task())
    return (-sent.update["theta"]["logits"]).tolist(), float(sent.metrics["loss_after"])


def test_the_process_has_its_return_gradient_and_hessian() -> None:
    point = at(*THETA)
    (slope,) = torch.autograd.grad(value(point), point)
    assert float(value(point).detach()) == pytest.approx(1.282324878119725, abs=1e-14)
    assert slope.tolist() == pytest.approx([0.37964976261185845, -0.4339900211420188], abs=1e-14)
    found = torch.autograd.functional.hessian(value, point)
    expected = [-0.14018798028811708, -0.12334084616602094, -0.12334084616602094]
    expected.append(-0.08565891939731878)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("estimator", ["exact", "dice", "lvc", "naive"])
def test_every_estimator_has_the_gradient(estimator: str) -> None:
    found = trajectories(at(*THETA), TRANSITION[None], REWARD[None])
    point = at(*THETA)
    found = trajectories(point, TRANSITION[None], REWARD[None])
    (slope,) = torch.autograd.grad(expected_loss(found._asdict(), None, estimator).sum(), point)
    assert (-slope).tolist() == pytest.approx([0.37964976261185845, -0.4339900211420188], abs=1e-13)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("dice", [-0.14018798028811708, -0.12334084616602094, -0.08565891939731878]),
        ("lvc", [-0.05652416767155133, 0, -0.08565891939731882]),
        ("naive", [-0.3693496058347885, 0, -0.1151611298889959]),
    ],
)
def test_hessians_in_expectation(estimator: str, expected: list[float]) -> None:
    found = hessian(estimator)
    assert [found[0, 0], found[0, 1], found[1, 1]] == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(
    ("strategy", "estimator", "expected"),
    [
        ("maml", "exact", TRUE),
        ("maml", "dice", TRUE),
        ("fomaml", "dice", (0.37597656909397703, -0.43300118793315273)),
        ("maml", "lvc", (0.36535068775795576, -0.41445598100509856)),
        ("maml", "naive", (0.3065431702949888, -0.40806873491032347)),
    ],
)
def test_meta_gradients_are_those_of_the_table(
    strategy: str, estimator: str, expected: tuple[float, ...]
) -> None:
    found, _ = meta_gradient(strategy, estimator)
    assert found == pytest.approx(expected, abs=1e-10)


def test_the_naive_estimator_is_off_by_more_than_a_tenth_and_dice_is_not() -> None:
    true = torch.tensor(TRUE, dtype=torch.float64)

    def off(strategy: str, estimator: str) -> float:
        found, _ = meta_gradient(strategy, estimator)
        return float((torch.tensor(found, dtype=torch.float64) - true).norm() / true.norm())

    assert off("maml", "dice") < 1e-10
    assert off("fomaml", "dice") == pytest.approx(0.0081, abs=1e-4)
    assert off("maml", "lvc") == pytest.approx(0.044, abs=5e-4)
    assert off("maml", "naive") == pytest.approx(0.131, abs=5e-4)


def test_whole_returns_make_the_naive_estimator_worse() -> None:
    """Not returns to go: every action is credited with rewards that came before it."""

    def slope_and_hessian(theta: Tensor) -> tuple[Tensor, Tensor]:
        def loss(theta: Tensor) -> Tensor:
            found = trajectories(theta, TRANSITION[None], REWARD[None])
            whole = found.rewards.sum(-1, keepdim=True).expand_as(found.rewards)
            lost = score_function.surrogate("naive", found.log_prob, whole)
            return -(found.prob.detach() * lost).sum()

        slope = torch.autograd.functional.jacobian(loss, theta)
        return slope, torch.autograd.functional.hessian(loss, theta)

    point = at(*THETA)
    slope, curve = slope_and_hessian(point)
    expected = [-0.38339233061710465, 0, 0, -0.23937551861632497]
    assert curve.flatten().tolist() == pytest.approx(expected, abs=1e-14)
    (after,) = torch.autograd.grad(value(fast := point + RATE * slope), fast)
    sent = after + RATE * curve @ after
    assert sent.tolist() == pytest.approx([0.3039033025527957, -0.3811762459716615], abs=1e-13)
    true = torch.tensor(TRUE, dtype=torch.float64)
    assert float((sent - true).norm() / true.norm()) == pytest.approx(0.159, abs=5e-4)


def test_one_step_leads_to_the_return_of_the_table() -> None:
    _, loss = meta_gradient("maml", "dice")
    assert -loss == pytest.approx(1.448439216973312, abs=1e-13)


@pytest.mark.parametrize(
    ("count", "to_go", "expected", "whole", "without"),
    [
        (1, False, 1.4394124434981705, (0.37061681341655206, -0.42877147297792734), 0.157),
        (2, False, 1.4440684314627252, (0.37307952653199355, -0.43267612230839425), 0.158),
        (1, True, 1.4393169341972587, (0.3742607867697485, -0.42966489143355624), 0.130),
        (2, True, 1.4438365689393204, (0.37501662395959967, -0.43346119847782366), 0.130),
    ],
)
def test_steps_on_few_episodes_have_another_objective(
    count: int, to_go: bool, expected: float, whole: tuple[float, ...], without: float
) -> None:
    """E-MAML: F_N(theta) = E J(theta + rate g), g from N episodes that theta itself plays.

    All N-tuples of trajectories are enumerated. Who leaves out that theta plays them, as MAML
    does, is off by ``without``.
    """

    def objective(theta: Tensor, *, constant: bool) -> Tensor:
        found = trajectories(theta, TRANSITION[None], REWARD[None])
        gained = found.rewards.flip(-1).cumsum(-1).flip(-1)
        gained = gained if to_go else gained[..., :1].expand_as(gained)
        slopes = [
            torch.autograd.grad((found.log_prob * gained)[0, path].sum(), theta, create_graph=True)[
                0
            ]
            for path in range(8)
        ]
        total = torch.zeros((), dtype=torch.float64)
        for paths in itertools.product(range(8), repeat=count):
            weight = torch.stack([found.prob[0, path] for path in paths]).prod()
            mean = torch.stack([slopes[path] for path in paths]).mean(0)
            total = total + (weight.detach() if constant else weight) * value(theta + RATE * mean)
        return total

    point = at(*THETA)
    full, part = (objective(point, constant=constant) for constant in (False, True))
    (true,) = torch.autograd.grad(full, point, retain_graph=True)
    (short,) = torch.autograd.grad(part, point)
    assert full.item() == pytest.approx(expected, abs=1e-12)
    assert true.tolist() == pytest.approx(whole, abs=1e-12)
    assert float((short - true).norm() / true.norm()) == pytest.approx(without, abs=6e-4)


def test_episodes_from_a_sample_approach_the_hessian() -> None:
    """DiCE on M trajectories: the error falls as 1 / sqrt(M)."""
    found = trajectories(at(*THETA), TRANSITION[None], REWARD[None])
    prob = found.prob[0].detach()
    uniform = seeding.uniform(seeding.key(0), [0], 100_000)[0]
    paths = (uniform[:, None] > prob.cumsum(0)).sum(1).clamp(max=7)
    counts = torch.bincount(paths, minlength=8) / len(paths)

    def loss(theta: Tensor) -> Tensor:
        played = trajectories(theta, TRANSITION[None], REWARD[None])._asdict()
        return -expected_loss(played | {"prob": counts[None]}, None, "dice")[0]

    sampled = torch.autograd.functional.hessian(loss, at(*THETA))
    true = torch.autograd.functional.hessian(value, at(*THETA))
    assert float((sampled - true).norm() / true.norm()) < 0.02


def test_check_gradients_covers_dice_and_finds_the_naive_estimator_wrong() -> None:
    covered = [name for name in CATALOGUE if takes_episodes(CATALOGUE[name]())]
    assert {"maml", "meta_sgd"} <= set(covered)
    maml = CATALOGUE["maml"](inner=GradientSteps(lr=RATE, steps=1))
    right = _check_on_episodes("maml", maml)
    assert "expected return, dice" in right.reference
    assert right.relative_error <= TOLERANCE
    for estimator in ("naive", "lvc"):
        assert _check_on_episodes("maml", maml, estimator).relative_error > 0.02


def test_the_clients_are_other_processes() -> None:
    group = Tabular().tasks("test", [0, 1], 1, {})[0]
    one, other = task_at(group.tasks, 0).support.x, task_at(group.tasks, 1).support.x
    assert not torch.equal(one["reward"], other["reward"])
    assert bool(((one["transition"] > 0) & (one["transition"] < 1)).all())
