"""Quadratic tasks: the closed forms, against minimisers that know nothing of matrices."""

import pytest
import torch
from scipy.optimize import minimize

from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.kernels import KernelSpec
from fedmaml.core.learner import Problem, make_learner
from fedmaml.core.params import map_params
from fedmaml.core.tasks import Task
from fedmaml.simulations.scenarios import Quadratic
from fedmaml.strategies import CATALOGUE
from fedmaml.strategies.base import kernel_spec

SCENARIO = Quadratic(seed=1, train_clients=5, dimension=4)


def problem() -> Problem:
    given = SCENARIO.problem()
    return Problem(given.network, given.loss, given.metrics, dtype=torch.float64)


def training_tasks() -> Task:
    return SCENARIO.tasks("train", list(SCENARIO.clients()["train"]), 1, {})[0].tasks


def mean_loss_after(theta: torch.Tensor, lr: float, steps: int) -> torch.Tensor:
    """Return the clients' mean loss after gradient steps, from the examples themselves."""
    tasks, losses = training_tasks(), []
    for x, y in zip(tasks.support.x, tasks.support.y, strict=True):
        phi = theta
        for _ in range(steps):
            loss = 0.5 * (x @ phi - y).square().mean()
            (slope,) = torch.autograd.grad(loss, phi, create_graph=True)
            phi = phi - lr * slope
        losses.append(0.5 * (x @ phi - y).square().mean())
    return torch.stack(losses).mean()


def spec(strategy: str, lr: float, steps: int) -> KernelSpec:
    found = kernel_spec(CATALOGUE[strategy](inner=GradientSteps(lr=lr, steps=steps)))
    assert isinstance(found, KernelSpec)
    return found


def minimiser(lr: float, steps: int) -> torch.Tensor:
    def value_and_slope(point):
        theta = torch.tensor(point, requires_grad=True)
        loss = mean_loss_after(theta, lr, steps)
        (slope,) = torch.autograd.grad(loss, theta)
        return float(loss.detach()), slope.numpy()

    start = torch.zeros(SCENARIO.dimension, dtype=torch.float64).numpy()
    found = minimize(value_and_slope, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    return torch.from_numpy(found.x)


def test_fedavg_with_one_step_ends_at_the_minimum_of_the_mean_loss() -> None:
    closed = SCENARIO.closed_form(spec("fedavg", 0.1, 1))
    torch.testing.assert_close(closed, minimiser(0.1, 0), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("lr", "steps"), [(0.1, 1), (0.1, 5), (0.3, 3)])
def test_maml_ends_at_the_minimum_of_the_mean_loss_after_adaptation(lr: float, steps: int) -> None:
    closed = SCENARIO.closed_form(spec("maml", lr, steps))
    torch.testing.assert_close(closed, minimiser(lr, steps), rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", ["fedavg", "reptile", "fomaml", "maml"])
def test_the_mean_update_is_zero_at_the_closed_form_and_only_there(name: str, steps: int) -> None:
    learner, params = make_learner(problem(), seeding.generator(0))
    strategy = CATALOGUE[name](inner=GradientSteps(lr=0.2, steps=steps))

    def mean_update(theta: torch.Tensor) -> torch.Tensor:
        meta = {"theta": {"head.weight": theta[None]}}
        update = torch.func.vmap(
            lambda task: strategy.client_update(learner, meta, {}, task).update["theta"]
        )(training_tasks())
        return map_params(lambda value: value.mean(0), update)["head.weight"][0]

    fixed_point = SCENARIO.closed_form(spec(name, 0.2, steps))
    assert mean_update(fixed_point).abs().max() < 1e-14
    assert mean_update(fixed_point + 0.01).abs().max() > 1e-4
    assert list(params) == ["head.weight"]


def test_strategies_end_at_different_points() -> None:
    points = [SCENARIO.closed_form(spec(name, 0.3, 5)) for name in ("reptile", "fomaml", "maml")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (points[one] - points[other]).norm() > 1e-3


def test_without_a_formula_there_is_no_closed_form() -> None:
    for strategy in ("fedprox", "meta_sgd", "local", "pfedme", "per_fedavg_fo"):
        assert SCENARIO.closed_form(spec(strategy, 0.1, 1)) is None
    batches = KernelSpec("difference", GradientSteps(lr=0.1, steps=1, batch=2))
    assert SCENARIO.closed_form(batches) is None


def test_examples_carry_the_loss_of_the_docstring() -> None:
    # 1/2 (theta - c)' A (theta - c)
    theta = torch.linspace(-1, 1, 4, dtype=torch.float64)
    for client in range(5):
        curvature, centre = SCENARIO.parameters_of(client)
        task = SCENARIO.tasks("train", [client], 1, {})[0].tasks
        loss = problem().loss((task.support.x[0] @ theta)[:, None], task.support.y[0]).mean()
        expected = 0.5 * (theta - centre) @ curvature @ (theta - centre)
        assert float(loss) == pytest.approx(float(expected), rel=1e-13)


def test_curvatures_have_the_eigenvalues_that_were_asked_for() -> None:
    scenario = Quadratic(smallest=0.5, largest=2.0, dimension=4)
    for client in (0, 15):
        curvature, _ = scenario.parameters_of(client)
        torch.testing.assert_close(curvature, curvature.T, rtol=0, atol=1e-14)
        expected = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
        torch.testing.assert_close(torch.linalg.eigvalsh(curvature), expected, rtol=0, atol=1e-13)
