"""Synthesis: yields by formula, Gaussian processes, and trials chosen one after another."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch, joined, task_at
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.references import gaussian_process as processes
from fedmaml.simulations.scenarios import Synthesis
from fedmaml.simulations.scenarios.synthesis import archive_process
from fedmaml.simulations.systems.trials import at_random, expected_improvement, greedy, regrets
from fedmaml.simulations.systems.yields import (
    NOISE,
    Material,
    candidates,
    inputs,
    regret,
    surface_error,
)

CLIENTS = range(130, 150)


def archives(scenario: Synthesis) -> TrainingClients:
    group = scenario.tasks("train", scenario.clients()["train"], 1, {})[0].tasks
    return TrainingClients(
        "x", False, {}, lambda: [joined(task_at(group, row)) for row in range(80)]
    )


@pytest.fixture(scope="module")
def process() -> processes.Process:
    return archive_process(archives(Synthesis()))


def test_random_trials_come_near_the_best_as_often_as_the_ellipsoid_is_large() -> None:
    """P(regret <= e) = 1 - (1 - V)^n,  V = 4/3 pi prod(w) (2 ln 1/(1-e))^1.5, inside the cube."""
    width = torch.tensor([[0.2, 0.25, 0.3]]).double()
    material = Material(torch.full((1, 3), 0.5).double(), width, torch.tensor([0.8]).double())
    draws = seeding.uniform(1, range(20_000), 12, 3)
    best = material.yields(draws.view(1, -1, 3)).view(20_000, 12).max(1).values
    share = float((1 - best / 0.8 <= 0.1).double().mean())
    volume = 4 / 3 * math.pi * float(width.prod()) * (2 * math.log(1 / 0.9)) ** 1.5
    expected = 1 - (1 - volume) ** 12
    assert expected == pytest.approx(0.07054, abs=1e-4)
    assert share == pytest.approx(expected, abs=3 * (expected / 20_000) ** 0.5)


def test_the_best_conditions_yield_the_height_and_lie_inside() -> None:
    scenario = Synthesis()
    of = scenario.materials(range(200))
    torch.testing.assert_close(of.yields(of.best[:, None])[:, 0], of.height)
    assert float(of.best.min()) > 0.2
    assert float(of.best.max()) < 0.8
    assert float(of.height.min()) >= 0.6
    away = of.best + torch.tensor([0.1, 0, 0]).double()
    assert (of.yields(away[:, None])[:, 0] < of.height).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_best_conditions_lie_on_the_same_bent_plane_for_every_seed(seed: int) -> None:
    """atanh((c* - .5) / .28) = .9 M u + .05 e: across the columns of M it is .05 e alone."""
    plane = torch.tensor([[0.9, 0.1], [-0.4, 0.7], [0.5, 0.6]]).double()
    across = torch.linalg.cross(plane[:, 0], plane[:, 1])
    best = Synthesis(seed=seed).materials(range(2000)).best
    place = torch.atanh((best - 0.5) / 0.28)
    found = place @ (across / across.norm())
    assert float(found.square().mean().sqrt()) == pytest.approx(0.05, rel=4 / 4000**0.5)
    assert float((place @ (plane[:, 1] / plane[:, 1].norm())).std()) > 0.5


def test_a_material_that_trains_shows_as_many_trials_as_a_new_one_has_while_it_chooses() -> None:
    scenario, sizes = Synthesis(), set()
    for round in range(1, 41):
        ((_, (support, query)),) = scenario.tasks("train", [0, 1], round, {})
        sizes.add(support.y.shape[1])
        assert support.y.shape[1] + query.y.shape[1] == 60
    assert sizes == set(range(6, 12))


def test_a_process_without_noise_passes_through_its_trials() -> None:
    y = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    support = Batch(inputs(candidates()[0, :9]), y)
    exact = processes.Process(lambda x: x.new_zeros(len(x)), processes.gaussian(0.06, 0.5), 1e-10)
    mean, variance = exact.posterior(support, support.x)
    torch.testing.assert_close(mean, support.y, rtol=0, atol=1e-6)
    torch.testing.assert_close(exact.adapt(support)(support.x)[:, 0], mean, rtol=0, atol=1e-6)
    assert float(variance.max()) < 1e-6
    far = torch.full((1, 3), 1e3).double()
    assert float(exact.posterior(support, far)[1]) == pytest.approx(0.06)


def test_the_evidence_is_that_of_the_covariance() -> None:
    one = Batch(torch.zeros(1, 3).double(), torch.tensor([0.7]).double())
    found = processes.Process(
        lambda x: x.new_full((len(x),), 0.2), processes.gaussian(0.5, 1), 0.25
    ).log_evidence(one)
    expected = -0.5 * math.log(2 * math.pi * 0.75) - 0.25 / (2 * 0.75)
    assert float(found) == pytest.approx(expected)


def test_the_expected_improvement_is_the_integral_over_the_posterior() -> None:
    trials = Batch(inputs(candidates()[0, :9]), torch.linspace(0.1, 0.9, 9).double())
    one = processes.Process(lambda x: x.new_zeros(len(x)), processes.gaussian(0.06, 0.5), 0.01)
    x = inputs(candidates()[0, 5:25])
    mean, variance = one.posterior(trials, x)
    line = torch.linspace(-9, 9, 20_001).double()
    values = mean[:, None] + variance.sqrt()[:, None] * line
    density = torch.exp(-line.square() / 2) / (2 * math.pi) ** 0.5
    expected = torch.trapezoid((values - 0.9).clamp(min=0) * density, line)
    found = expected_improvement(lambda _support: one)(trials)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def test_metrics_read_the_height_from_the_last_row() -> None:
    y = torch.tensor([0.2, 0.6, 0.4, 0.8]).double()
    perfect = y[:, None].clone()
    perfect[-1] = 9.0  # what is predicted there is of no importance
    assert float(surface_error(perfect, y)) == 0
    assert float(regret(perfect, y)) == pytest.approx(0.25)
    assert float(regret(5 * perfect, 5 * y)) == pytest.approx(0.25)  # in units of the height
    assert float(regret(-perfect, y)) == pytest.approx(0.75)


def test_regret_never_rises_and_the_archive_is_worth_more_than_random_trials(process) -> None:
    scenario = Synthesis()
    few = CLIENTS[:8]
    tried = regrets(scenario, few, expected_improvement(lambda _support: process), 6)
    assert (tried[:, 1:] <= tried[:, :-1]).all()
    assert (tried >= 0).all()
    floor = scenario.candidates(few)
    assert (tried[:, -1] >= 1 - floor.y[:, :-1].max(1).values / floor.y[:, -1] - 1e-12).any()
    by_chance = regrets(scenario, few, at_random(3), 6)
    assert torch.equal(by_chance[:, 0], tried[:, 0])
    assert float(tried[:, -1].mean()) < 0.09
    assert float(by_chance[:, -1].mean()) > 0.2


def test_when_all_materials_are_equal_the_first_choice_is_the_best_candidate() -> None:
    scenario = Synthesis()
    of = scenario.materials([0])
    yields = of.yields(candidates())[0]

    def known(_support: Batch):
        return lambda x: (of.yields((x / 3 + 0.5)[None])[0])[:, None]

    tried = regrets(scenario, [0], greedy(known), 1)
    assert float(tried[0, 1]) <= float(1 - yields.max() / of.height[0]) + 1e-12


def test_the_pooled_surface_of_equal_materials_is_best_at_their_best_candidate() -> None:
    conditions, of = candidates()[0], Synthesis().materials([0])
    yields = of.yields(conditions[None])[0]
    archive = Batch(inputs(conditions), yields)
    clients = TrainingClients("x", False, {}, lambda: [archive] * 3)
    prior = processes.Process(lambda x: x.new_zeros(len(x)), processes.gaussian(0.06, 0.5), 1e-8)
    pooled = processes.archive_process(clients, prior, 0.02)

    def adapt(_support: Batch) -> Predictor:
        return lambda x: pooled.mean(x)[:, None]

    tried = regrets(Synthesis(), [0], greedy(adapt), 1)
    assert float(tried[0, 1]) == pytest.approx(float(1 - yields.max() / of.height[0]), abs=1e-12)
    exact = pooled.posterior(Batch(archive.x[:6], archive.y[:6]), archive.x)[0]
    torch.testing.assert_close(exact, yields, rtol=0, atol=1e-4)


def test_luck_in_measuring_is_no_merit() -> None:
    """A policy that goes through candidates 7 and 11 has the regret of their true yields."""
    scenario, order = Synthesis(), iter([7, 11])

    def policy(_support: Batch) -> Callable[[Tensor], Tensor]:
        chosen = next(order)
        return lambda x: (torch.arange(len(x)) == chosen).double()

    found = regrets(scenario, [131], policy, 2)[0]
    of = scenario.materials([131])
    ((_, (support, _query)),) = scenario.tasks("test", [131], 1, {})
    tried = torch.cat([support.x[0] / 3 + 0.5, candidates()[0, [7, 11]]])
    yields = of.yields(tried[None])[0] / of.height
    expected = [1 - float(yields[:count].max()) for count in (6, 7, 8)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_surfaces_are_in_their_bands(process) -> None:
    scenario = Synthesis()
    tested = scenario.tasks("test", CLIENTS, 1, {})[0].tasks
    alone = processes.local_process(0.06, (0.8,), NOISE**2).fit(archives(scenario), length=0.8)
    errors: dict[str, list[float]] = {"archive": [], "alone": [], "mean": []}
    for row in range(len(CLIENTS)):
        task = task_at(tested, row)
        found = {
            "archive": process.adapt(task.support)(task.query.x),
            "alone": alone(task.support)(task.query.x),
            "mean": process.mean(task.query.x)[:, None],
        }
        for name, prediction in found.items():
            errors[name].append(float(surface_error(prediction, task.query.y)))
    mean = {name: sum(each) / len(each) for name, each in errors.items()}
    assert 0.07 < mean["archive"] < 0.105
    assert mean["archive"] + 0.03 < mean["alone"] < 0.19
    assert mean["archive"] + 0.03 < mean["mean"] < 0.19
