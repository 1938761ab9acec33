"""Payload: mechanics against energy, and what the arms' linear model knows exactly."""

import pytest
import torch
from torch import Tensor
from torch.func import grad

from fedmaml.core.tasks import joined, task_at
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.references import linear
from fedmaml.simulations.scenarios import Payload
from fedmaml.simulations.scenarios.payload import torque_error
from fedmaml.simulations.systems.arm import OF_MASS, PARAMETERS, motion, regressors
from fedmaml.simulations.systems.payloads import arms, prior, reading, scales


def energy(q: Tensor, v: Tensor) -> Tensor:
    """Return kinetic plus potential energy, in joule, of one state."""
    a1, a2, a3, b1, b2, _, _ = PARAMETERS
    kinetic = a1 * v[0] ** 2 / 2 + a2 * torch.cos(q[1]) * (v[0] ** 2 + v[0] * v[1])
    kinetic = kinetic + a3 * (v[0] * v[1] + v[1] ** 2 / 2)
    return kinetic + b1 * torch.sin(q[0]) + b2 * torch.sin(q[0] + q[1])


def test_speeds_and_accelerations_are_the_derivatives_of_the_angles() -> None:
    for at in (0.3, 1.7):
        time = torch.tensor(at, dtype=torch.float64)
        for order in (0, 1):
            for joint in (0, 1):

                def of_time(t: Tensor, order: int = order, joint: int = joint) -> Tensor:
                    return motion(7, [3], t[None])[order][0, 0, joint]

                expected = motion(7, [3], time[None])[order + 1][0, 0, joint]
                torch.testing.assert_close(grad(of_time)(time), expected)


def test_the_power_of_the_joints_is_what_energy_and_friction_take() -> None:
    time = torch.tensor([0.9], dtype=torch.float64)
    q, dq, ddq = (each[0, 0] for each in motion(5, [0], time))
    power = dq @ (regressors(q, dq, ddq) @ PARAMETERS)
    by_angle, by_speed = grad(energy, (0, 1))(q, dq)
    gained = by_angle @ dq + by_speed @ ddq
    lost = PARAMETERS[5] * dq[0] ** 2 + PARAMETERS[6] * dq[1] ** 2
    assert float(power) == pytest.approx(float(gained + lost), rel=1e-8)


def noiseless(scenario: Payload, client: int):
    """Return the query of an arm, without its last row, as what it adapts on."""
    query = task_at(scenario.tasks("test", [client], 0, {})[0].tasks, 0).query
    return type(query)(query.x[:-1], query.y[:-1])


def test_least_squares_without_noise_returns_the_parameters() -> None:
    _, own = arms(0, [300])
    found = linear.solve(lambda x: x, noiseless(Payload(), 300))[:, 0]
    torch.testing.assert_close(found / scales(), own[0], rtol=1e-9, atol=1e-9)


def test_the_mass_is_read_from_what_it_adds_to_the_parameters() -> None:
    usual = reading() @ PARAMETERS
    assert float(reading() @ (PARAMETERS + 1.7 * OF_MASS) - usual) == pytest.approx(1.7)
    mass, own = arms(0, range(300, 700))
    errors = own @ reading() - usual - mass
    expected = (OF_MASS.square() / (PARAMETERS * 0.05).square())[:5].sum() ** -0.5
    assert float(errors.std()) == pytest.approx(float(expected), rel=0.1)  # of the best unbiased


def test_ridge_with_the_inverse_covariance_is_the_posterior_mean() -> None:
    known = prior()
    support = task_at(Payload().tasks("test", [301], 0, {})[0].tasks, 0).support
    penalty = torch.linalg.inv(known.spread)
    left = support.x.T @ support.x + penalty
    ridge = torch.linalg.solve(left, support.x.T @ support.y + penalty @ known.mean)
    torch.testing.assert_close(ridge, known.posterior(*support)[0], rtol=1e-6, atol=1e-6)


def test_without_noise_and_mass_the_torque_error_is_zero_and_a_newton_metre_counts_as_one() -> None:
    y = torch.zeros(5, dtype=torch.float64)
    assert float(torque_error(y[:, None], y)) == 0
    wrong = torch.tensor([1 / 1.5, 1 / 0.8, 1 / 1.5, 1 / 0.8, 99.0], dtype=torch.float64)
    assert float(torque_error(wrong[:, None], y)) == pytest.approx(1)


@pytest.fixture(scope="module")
def errors() -> dict[str, tuple[float, float]]:
    """Mean torque and mass errors of the references after two seconds of motion, 300 arms."""
    scenario = Payload(seconds=2.0)
    training = scenario.tasks("train", scenario.clients()["train"], 1, {})[0].tasks
    clients = TrainingClients(
        "", True, {}, lambda: [joined(task_at(training, row)) for row in range(60)]
    )
    tested = scenario.tasks("test", scenario.clients()["test"][:300], 0, {})[0].tasks
    found = {}
    for reference in scenario.references():
        adapt = reference.fit(clients, **reference.grid[len(reference.grid) // 2])
        values = []
        for row in range(300):
            task = task_at(tested, row)
            prediction = adapt(task.support)(task.query.x)
            mass = (prediction[-1, 0] - task.query.y[-1]).abs()
            values.append((float(torque_error(prediction, task.query.y)), float(mass)))
        found[reference.name] = tuple(float(column.mean()) for column in torch.tensor(values).T)
    return found


def test_references_after_two_seconds_are_in_their_bands(errors) -> None:
    assert 0.7 < errors["least squares"][0] < 1.1
    assert 0.44 < errors["ridge to the mean"][0] < 0.6
    assert 0.05 < errors["hierarchical ridge"][1] < 0.07
    assert errors["oracle"][0] < errors["hierarchical ridge"][0] < 0.3
