"""Payload by a network: what it sees holds the mechanics, and what its references read there."""

import math

import pytest
import torch

from fedmaml.core.tasks import Task, task_at
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.scenarios import Payload, PayloadNetwork
from fedmaml.simulations.scenarios.payload import torque_error as error_of_rows
from fedmaml.simulations.scenarios.payload_network import (
    mass_at_rest,
    mass_error,
    mechanics_of,
    poses,
    torque_error,
)
from fedmaml.simulations.systems import payloads
from fedmaml.simulations.systems.arm import OF_MASS, PARAMETERS, motion, regressors

CLIENT = 300


def pair(split: str) -> tuple[Task, Task]:
    """Return the task of one arm as the linear model has it, and as the network has it."""
    scenarios = (Payload(seconds=2.0), PayloadNetwork(seconds=2.0, postures=90))
    one, other = (each.tasks(split, [CLIENT], 1, {})[0].tasks for each in scenarios)
    return task_at(one, 0), task_at(other, 0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_the_network_sees_holds_the_mechanics(split: str) -> None:
    for rows, seen in zip(*pair(split), strict=True):
        times = len(rows.y) // 2  # an evaluated query has one more row, and the network poses
        torch.testing.assert_close(mechanics_of(seen.x[:times]), rows.x[: 2 * times])
        y = rows.y[: 2 * times].view(-1, 2) * payloads.NOISE / 10
        torch.testing.assert_close(seen.y[:times], y)


def test_references_of_the_network_are_those_of_the_mechanics() -> None:
    plain, network = pair("test")
    training = pair("train")
    for one, other in zip(Payload().references(), PayloadNetwork().references(), strict=True):
        fitted = []
        for reference, task in ((one, training[0]), (other, training[1])):
            clients = TrainingClients("", True, {}, lambda task=task: [task.query] * 3)
            fitted.append(reference.fit(clients, **reference.grid[0]))
        expected = fitted[0](plain.support)(plain.query.x)
        found = fitted[1](network.support)(network.query.x)
        torch.testing.assert_close(
            torque_error(found, network.query.y), error_of_rows(expected, plain.query.y)
        )


def test_mean_postures_lie_within_their_range() -> None:
    for degrees in (10.0, 45.0):
        q, *_ = motion(3, range(500), torch.linspace(0, 60, 400), math.radians(degrees))
        means = q.mean(1).rad2deg().abs()  # of a minute, in which most sinusoids vanish
        assert 0.7 * degrees < means.quantile(0.95) < 1.3 * degrees
    narrow = PayloadNetwork(postures=0.0).tasks("test", [CLIENT], 1, {})[0].tasks
    wide = PayloadNetwork(postures=90.0).tasks("test", [CLIENT], 1, {})[0].tasks
    speeds = slice(6, 10)
    assert torch.equal(narrow.support.x[..., speeds], wide.support.x[..., speeds])
    assert not torch.equal(narrow.support.x, wide.support.x)


def test_torques_at_rest_say_the_mass_of_the_usual_arm() -> None:
    still = torch.zeros_like(poses())
    matrix = regressors(poses(), still, still).flatten(0, 1)
    assert float(mass_at_rest() @ matrix @ OF_MASS) == pytest.approx(1)
    other = PARAMETERS * torch.tensor([2, 2, 2, 1, 1, 3, 3])  # inertia and friction do not show
    assert float(mass_at_rest() @ matrix @ (other - PARAMETERS)) == pytest.approx(0, abs=1e-12)
    y = torch.zeros(20, 2, dtype=torch.float64)
    heavier = torch.cat([torch.full((4, 2), 9.0), (matrix @ OF_MASS).view(-1, 2) * 0.3 / 10])
    assert float(mass_error(heavier, y)) == pytest.approx(0.3)
    assert float(torque_error(heavier, y)) == pytest.approx(90)  # the poses do not count


def test_the_mass_of_evaluated_arms_is_read_with_the_spread_of_their_gravity() -> None:
    scenario = PayloadNetwork()
    clients = scenario.clients()["test"]
    tasks = scenario.tasks("test", clients, 0, {})[0].tasks
    _, own = payloads.arms(0, clients)
    still = torch.zeros_like(poses())
    true = regressors(poses(), still, still) @ own[:, None, :, None]
    errors = (true[..., 0] / 10 - tasks.query.y[:, -16:]).flatten(1) @ (10 * mass_at_rest())
    terms = (OF_MASS / (PARAMETERS * 0.05))[3:5]
    expected = float(terms.square().sum() ** -0.5)  # of the best unbiased reading, .06 kg
    assert float(errors.std()) == pytest.approx(expected, rel=0.2)
