"""Payload: mechanics against energy, and what the arms' linear model knows exactly."""

import pytest
import torch
from torch import Tensor
from torch.func import grad

from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch, joined, task_at
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.references import linear
from fedmaml.simulations.scenarios import Payload
from fedmaml.simulations.scenarios.payload import torque_error
from fedmaml.simulations.systems.arm import OF_MASS, PARAMETERS, motion, regressors
from fedmaml.simulations.systems.payloads import arms, prior, reading, scales
from fedmaml.strategies import MAML


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


def arms_like_their_prior(x: Tensor) -> list[Batch]:
    """Return 14 arms on one motion whose fits have exactly the mean and covariance of `prior`.

    Least squares finds their parameters, since their noise is orthogonal to the inputs, and spreads
    them by (x'x)^-1 more; its squares sum to the degrees of freedom, so that its variance is 1.
    """
    known = prior()
    rows, columns = x.shape
    spread = torch.linalg.cholesky(known.spread + torch.linalg.inv(x.T @ x))
    noise = torch.linspace(-1, 1, rows, dtype=x.dtype).sign()
    noise = noise - x @ torch.linalg.lstsq(x, noise[:, None], driver="gelsd").solution[:, 0]
    noise = noise * (rows - columns) ** 0.5 / noise.norm()
    steps = columns**0.5 * spread.T
    return [Batch(x, x @ (known.mean + step) + noise) for step in (*steps, *-steps)]


@pytest.mark.parametrize("name", ["hierarchical ridge", "oracle"])
def test_the_mass_is_read_as_the_posterior_of_eight_unknowns_says(name: str) -> None:
    """The mass beside the seven parameters of the arm without it.

    m ~ (1.5, .75), and a reading r of pi alone has the variance 1 / (h' D^-1 h) about m, so
    E[m | pi] - 1.5 = .75 / (.75 + that) (r - 1.5).
    """
    clients = Payload().clients()["test"][:20]
    (group,) = Payload().tasks("test", clients, 0, {})
    training = arms_like_their_prior(group.tasks.query.x[0, :-1])
    (reference,) = [each for each in Payload().references() if each.name == name]
    adapt = reference.fit(TrainingClients("", True, {}, lambda: training))
    spread = PARAMETERS * torch.tensor([0.05] * 5 + [0.5] * 2, dtype=torch.float64)
    mean = torch.cat([PARAMETERS * scales(), PARAMETERS.new_tensor([1.5])])
    precision = torch.cat([(spread * scales()) ** -2, PARAMETERS.new_tensor([1 / 0.75])])
    of_reading = 1 / (OF_MASS / spread).square().sum()
    share = 0.75 / (0.75 + of_reading)
    for row in range(len(clients)):
        support, query = task_at(group.tasks, row)
        x = torch.cat([support.x, support.x @ (OF_MASS * scales())[:, None]], 1)
        left = x.T @ x + torch.diag(precision)
        mass = torch.linalg.solve(left, x.T @ support.y + precision * mean)[-1]
        found = adapt(support)(query.x[-1:])[0, 0] - reading() @ PARAMETERS
        assert float(share * (found - 1.5)) == pytest.approx(float(mass - 1.5), abs=1e-6)


def adapted(scenario: Payload, support: Batch, inner: GradientSteps) -> Predictor:
    """Return what gradient steps make of the start on a support."""
    strategy = MAML(inner=inner)
    start = strategy.build(scenario.problem().in_dtype("float64"), seeding.generator(0))
    return strategy.adapt(start.learner, start.state.meta, {}, support)


def largest_curvature(x: Tensor) -> float:
    return float(torch.linalg.matrix_norm(x, 2)) ** 2 / len(x)


def test_many_steps_end_at_least_squares() -> None:
    scenario = Payload(seconds=10.0)
    support, query = task_at(scenario.tasks("test", [300], 0, {})[0].tasks, 0)
    steps = GradientSteps(lr=1 / largest_curvature(support.x), steps=700)
    (exact,) = [each for each in scenario.references() if each.name == "least squares"]
    expected = exact.fit(TrainingClients("", True, {}, list))(support)(query.x)
    found = adapted(scenario, support, steps)(query.x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_steps_converge_below_two_over_the_curvature_and_diverge_above_unless_bounded() -> None:
    """Above, a bound b ends where steps turn: lr c / (1 + c e / b) = 2 at curvature c, error e."""
    scenario = Payload()
    support = task_at(scenario.tasks("test", [301], 0, {})[0].tasks, 0).support
    curvature = largest_curvature(support.x)
    exact = linear.solve(lambda x: x, support)

    def error(factor: float, bound: float = 0.0) -> float:
        """Return the error in the direction of the largest curvature, after 400 steps."""
        steps = GradientSteps(lr=factor / curvature, steps=400, bound=bound)
        left, _, _ = torch.linalg.svd(support.x, full_matrices=False)
        rest = adapted(scenario, support, steps)(support.x) - support.x @ exact
        return float((left[:, 0] @ rest).abs()) / (curvature * len(support.y)) ** 0.5

    assert error(1.9) < 1e-9
    assert error(2.1) > 1e9
    bound = Payload.recipes["fedavg"]["adaptation.bound"]
    assert error(2.1, bound) == pytest.approx(0.05 * bound / curvature, rel=0.05)


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
