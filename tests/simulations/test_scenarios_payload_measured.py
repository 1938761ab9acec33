"""Payload of a measured arm: windows in time order, and what the unexplained torque is like."""

import pytest
import torch

from fedmaml.core.tasks import joined, task_at
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.scenarios import PayloadMeasured
from fedmaml.simulations.systems.panda_torques import blocks


@pytest.fixture(scope="module")
def data(data_dir) -> str:
    return str(data_dir)


def test_what_a_model_leaves_over_is_alike_for_a_tenth_of_a_second(data: str) -> None:
    left = blocks(data)[..., 1]
    later = torch.stack([left[:, :-25].flatten(), left[:, 25:].flatten()])
    assert 1 < float(left.square().mean().sqrt()) < 3  # Nm
    assert float(torch.corrcoef(later)[0, 1]) > 0.5


def test_samples_of_a_window_are_neighbours_in_time(data: str) -> None:
    scenario = PayloadMeasured(data_dir=data)
    support = task_at(scenario.tasks("test", [300], 0, {})[0].tasks, 0).support
    own = blocks(data)[2::3, :, 0]
    places = (own[..., None] == support.x[:, 0]).nonzero()
    assert len({int(block) for block, _, _ in places}) == 1
    assert places[:, 1].diff().tolist() == [1] * 24


def test_a_payload_adds_its_mass_times_h(data: str) -> None:
    scenario = PayloadMeasured(data_dir=data)
    task = task_at(scenario.tasks("test", [300], 0, {})[0].tasks, 0)
    table = blocks(data)[2::3].flatten(0, 1)
    mass = task.query.y[-1]
    for x, y in zip(task.support.x[:, 0], task.support.y, strict=True):
        (row,) = (table[:, 0] == x).nonzero()[:, 0]
        assert float(y - table[row, 1]) == pytest.approx(float(mass * x))


def test_support_and_query_are_of_different_blocks_of_the_split(data: str) -> None:
    scenario = PayloadMeasured(data_dir=data)
    every = blocks(data)[..., 0]
    for place, split in enumerate(("train", "validation", "test")):
        client = scenario.clients()[split][0]
        task = task_at(scenario.tasks(split, [client], 3, {})[0].tasks, 0)
        found = [
            {int(block) for block in (every[:, :, None] == batch.x[:25, 0]).nonzero()[:, 0]}
            for batch in task
        ]
        assert [len(each) for each in found] == [1, 1]
        assert found[0] != found[1]
        assert {block % 3 for each in found for block in each} == {place}


@pytest.fixture(scope="module")
def errors(data: str) -> dict[str, float]:
    """Mean mass errors of the references over 600 payloads, at their best weight."""
    scenario = PayloadMeasured(data_dir=data)
    training = scenario.tasks("train", scenario.clients()["train"], 1, {})[0].tasks
    clients = TrainingClients(
        "", True, {}, lambda: [joined(task_at(training, row)) for row in range(100)]
    )
    tested = scenario.tasks("test", scenario.clients()["test"], 0, {})[0].tasks

    def error(adapt) -> float:
        values = []
        for row in range(len(tested.query.y)):
            task = task_at(tested, row)
            prediction = adapt(task.support)(task.query.x[-1:])
            values.append(float((prediction[0, 0] - task.query.y[-1]).abs()))
        return sum(values) / len(values)

    return {
        reference.name: min(error(reference.fit(clients, **chosen)) for chosen in reference.grid)
        for reference in scenario.references()
    }


def test_ridge_to_the_mean_is_in_its_band_and_least_squares_is_far_from_it(errors) -> None:
    assert 0.44 < errors["ridge to the mean"] < 0.58
    assert errors["hierarchical ridge"] > errors["ridge to the mean"]  # it takes the rest for noise
    assert errors["least squares"] > 1.4 * errors["ridge to the mean"]
