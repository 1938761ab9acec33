"""Sinusoid regression: ranges and formula of the MAML paper, read off the data."""

import math

import pytest
import torch
from scipy.stats import kstest

from fedmaml.core import seeding
from fedmaml.core.losses import squared_error
from fedmaml.simulations.scenarios import Sinusoid

SCENARIO = Sinusoid()


def curves(split: str, clients: list[int], round: int = 1) -> torch.Tensor:
    """Return amplitude and phase of each client, ``(clients, 2)``, by least squares.

    y = a sin(x - p) = (a cos p) sin x - (a sin p) cos x, which is linear in its two coefficients.
    """
    tasks = SCENARIO.tasks(split, clients, round, {})[0].tasks
    x = torch.cat([tasks.support.x, tasks.query.x], 1)
    y = torch.cat([tasks.support.y, tasks.query.y], 1)
    design = torch.cat([x.sin(), x.cos()], -1)
    found = torch.linalg.lstsq(design, y).solution
    # Every point, of support and query, lies on the curve.
    torch.testing.assert_close(design @ found, y, rtol=0, atol=1e-9)
    sine, cosine = found[:, 0, 0], found[:, 1, 0]
    return torch.stack([torch.hypot(sine, cosine), torch.atan2(-cosine, sine)], 1)


def test_amplitudes_and_phases_have_the_papers_ranges() -> None:
    amplitude, phase = curves("test", list(SCENARIO.clients()["test"])).T
    assert kstest(amplitude.numpy(), "uniform", (0.1, 4.9)).pvalue > 0.001
    assert kstest(phase.numpy(), "uniform", (0, math.pi)).pvalue > 0.001
    assert 0.1 <= float(amplitude.min()) < float(amplitude.max()) <= 5
    assert float(phase.min()) >= 0
    assert float(phase.max()) <= math.pi


def test_inputs_are_uniform_from_minus_five_to_five() -> None:
    tasks = SCENARIO.tasks("train", list(range(500)), 4, {})[0].tasks
    for batch in tasks:
        assert kstest(batch.x.flatten().numpy(), "uniform", (-5, 10)).pvalue > 0.001


def test_a_client_keeps_its_curve_from_round_to_round() -> None:
    first, second = (curves("train", [0, 1, 999_999], round) for round in (1, 2))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-9)
    assert (first[0] - first[1]).abs().max() > 0.01


def test_support_and_query_have_the_sizes_that_were_asked_for() -> None:
    scenario = Sinusoid(shots=7, test_shots=3, test_queries=11)
    train = scenario.tasks("train", [0], 1, {})[0].tasks
    test = scenario.tasks("test", [scenario.clients()["test"][0]], 1, {})[0].tasks
    sizes = [tuple(batch.x.shape) for batch in (*train, *test)]
    assert sizes == [(1, 7, 1), (1, 7, 1), (1, 3, 1), (1, 11, 1)]


def test_the_network_has_the_papers_shape() -> None:
    with seeding.isolated(seeding.generator(0)):
        network = SCENARIO.problem().network()
    sizes = [tuple(parameter.shape) for parameter in network.parameters()]
    assert sizes == [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]


def test_the_loss_is_the_squared_error_of_each_example() -> None:
    loss = squared_error(torch.tensor([[1.0], [4.0]]), torch.tensor([[0.0], [1.0]]))
    assert loss.tolist() == [1.0, 9.0]


def test_predicting_zero_costs_half_the_mean_squared_amplitude() -> None:
    # E a^2 = (5^3 - 0.1^3) / (3 * 4.9) = 8.50 for a ~ U[0.1, 5]; with sin^2 near 1/2 on average,
    # 4.25. The standard error over 600 curves is about 0.14; allow 4 of it.
    tasks = SCENARIO.tasks("test", list(SCENARIO.clients()["test"]), 1, {})[0].tasks
    assert float(tasks.query.y.square().mean()) == pytest.approx(4.25, abs=0.6)
