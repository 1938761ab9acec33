"""Inverse design: the property by formula, the loss at its ends, conditions, counted calls."""

from pathlib import Path

import pytest
import torch
from torch.func import grad

from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.counters import count_units
from fedmaml.core.learner import make_learner
from fedmaml.core.tasks import Task, task_at
from fedmaml.running import execute
from fedmaml.simulations.datasets import elements
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.scenarios import InverseDesign
from fedmaml.simulations.systems import alloys

LOGITS = torch.randn(7, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NOBODY = TrainingClients("x", True, {}, list)


def task(scenario: InverseDesign, client: int = 250) -> Task:
    return task_at(scenario.tasks("test", [client], 0, {})[0].tasks, 0)


def test_a_pure_element_has_the_valence_term_alone() -> None:
    found = alloys.terms(torch.eye(12, dtype=torch.float64))
    valence = elements.column("valence electrons", alloys.METALS)
    torch.testing.assert_close(found[:, 0], (valence - 6.8) / 1.5)
    assert found[:, 1].tolist() == pytest.approx([12 * (1e-3 - 0.15)] * 12)  # the root's 1e-6
    assert found[:, 2].abs().max() < 0.01


def test_the_propertys_gradient_is_that_of_finite_differences() -> None:
    y, at = task(InverseDesign()).query.y[:1], LOGITS[:1]

    def value(logits: torch.Tensor) -> torch.Tensor:
        return alloys.oracle(logits.softmax(-1), y).sum()

    slope = grad(value)(at)
    for column in range(12):
        step = torch.zeros_like(at)
        step[0, column] = 1e-5
        by_difference = (value(at + step) - value(at - step)) / 2e-5
        assert float(slope[0, column]) == pytest.approx(float(by_difference), abs=1e-6)


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    y = task(InverseDesign()).query.y[:7]
    for function in (alloys.loss, alloys.hit, alloys.diversity):
        torch.testing.assert_close(function(LOGITS + 3, y), function(LOGITS, y))


def test_every_sample_hits_at_an_infinite_tolerance_and_none_at_zero() -> None:
    y = task(InverseDesign()).query.y[:7]
    assert float(alloys.hit(LOGITS, y, tolerance=float("inf"))) == 1
    assert float(alloys.hit(LOGITS, y, tolerance=0.0)) == 0


def test_the_loss_is_zero_for_the_decoder_on_target_and_grows_by_the_divergence() -> None:
    y = torch.cat([torch.zeros(7, 4, dtype=torch.float64), LOGITS], 1)  # w = 0 and y* = 0
    assert float(alloys.loss(LOGITS, y).abs().max()) < 1e-12
    c, start = LOGITS.flip(0).softmax(-1), LOGITS.softmax(-1)
    expected = 0.05 * (c * (c / start).log()).sum(-1)
    torch.testing.assert_close(alloys.loss(LOGITS.flip(0), y), expected)


def test_a_heavy_divergence_returns_the_decoders_compositions_and_a_light_one_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Minima of the loss over logits, from others than the decoder's."""
    y = task(InverseDesign()).query.y
    start = y[:, 4:]

    def minimum(weight: float) -> torch.Tensor:
        monkeypatch.setattr(alloys, "KL_WEIGHT", weight)
        logits = torch.zeros_like(start, requires_grad=True)
        search = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe",
                                   tolerance_grad=1e-12, tolerance_change=1e-14)  # fmt: skip

        def mean_loss() -> torch.Tensor:
            search.zero_grad()
            found = alloys.loss(logits, y).mean() / max(weight, 1)
            found.backward()  # type: ignore[no-untyped-call]
            return found

        search.step(mean_loss)  # type: ignore[no-untyped-call]
        return logits.detach()

    heavy, light = minimum(1e6), minimum(0.05)
    torch.testing.assert_close(heavy.softmax(-1), start.softmax(-1), rtol=0, atol=1e-4)
    assert float(alloys.hit(heavy, y)) == float(alloys.hit(start, y)) < 0.2
    assert float(alloys.hit(light, y)) > 0.9


def test_diversity_is_0_for_one_composition_and_1_for_different_pure_elements() -> None:
    assert float(alloys.diversity(LOGITS[:1].expand(9, -1), LOGITS)) < 1e-12
    pure = 50 * torch.eye(12, dtype=torch.float64)
    assert float(alloys.diversity(pure, LOGITS)) == pytest.approx(1)


@pytest.mark.parametrize("condition", ["nothing", "target", "probes"])
def test_the_generator_starts_as_the_decoder_whatever_its_condition(condition: str) -> None:
    scenario = InverseDesign(condition=condition)
    learner, theta = make_learner(scenario.problem(), seeding.generator(0))
    support = task(scenario).support
    logits = learner.apply(theta, support.x.float())
    torch.testing.assert_close(logits, support.y[:, 4:].float(), rtol=1e-4, atol=1e-4)


def test_a_client_gets_its_target_and_the_property_of_16_probes() -> None:
    support = task(InverseDesign(condition="probes")).support
    assert float(support.x[0, 4]) == float(support.y[0, 0])
    probes = alloys.terms(alloys.pool()[:16]) @ support.y[0, 1:4]
    torch.testing.assert_close(support.x[0, 5:], probes)
    assert (support.x[:, 4:] == support.x[0, 4:]).all()


def test_equal_weights_are_one_and_targets_lie_in_their_range() -> None:
    wanted = InverseDesign(weights="equal").wanted(range(100))
    assert (wanted[:, 1:] == 1).all()
    assert float(wanted[:, 0].abs().max()) <= 1.4


def test_secret_targets_lie_within_a_deviation_and_a_half_of_the_clients_own_mean() -> None:
    wanted = InverseDesign().wanted(range(400))
    target, w = wanted[:, 0], wanted[:, 1:]
    own = alloys.terms(alloys.pool()) @ w.T
    away = (target - own.mean(0)) / own.std(0)
    assert float(away.abs().max()) <= 1.5
    assert float(away.std()) == pytest.approx(1.5 / 3**0.5, rel=0.1)  # uniform
    assert w.mean(0).tolist() == pytest.approx([1] * 3, abs=4 * 0.6 / 20)
    assert w.std(0).tolist() == pytest.approx([0.6] * 3, rel=4 / 800**0.5)


def test_every_example_is_a_call_of_the_oracle() -> None:
    scenario = InverseDesign(shots=32)
    counted = count_units(scenario.problem().counters, task(scenario))
    assert (counted["oracle_calls"].support, counted["oracle_calls"].query) == (32, 192)


def test_references_are_in_their_bands() -> None:
    settings = {"Gaussian process on the pool": {"length": 0.8}, "latent descent": {"lr": 1.0}}
    hits = {}
    for reference in InverseDesign().references():
        adapt = reference.fit(NOBODY, **settings.get(reference.name, {}))
        tasks = [task(InverseDesign(), client) for client in range(240, 265)]
        rates = [alloys.hit(adapt(each.support)(each.query.x), each.query.y) for each in tasks]
        hits[reference.name] = float(torch.stack(rates).mean())
    assert 0.12 < hits["pool"] < 0.21
    assert 0.7 < hits["Gaussian process on the pool"] < 0.95
    assert 0.6 < hits["latent descent"] < 0.9


def test_what_was_measured_is_not_proposed_again() -> None:
    adapt = InverseDesign(shots=8).references()[1].fit(NOBODY, length=0.8)
    each = task(InverseDesign(shots=8))
    proposed = adapt(each.support)(each.query.x).softmax(-1)
    nearest = torch.cdist(proposed, alloys.pool()[:8]).min()
    assert float(nearest) > 1e-6
    assert float(torch.cdist(proposed, alloys.pool()[8:]).min(1).values.max()) < 1e-6


@pytest.mark.slow
def test_who_is_told_all_there_is_to_know_need_not_adapt(tmp_path: Path) -> None:
    """Expected before it was measured: a share of .98 without a call of the oracle."""
    settings = {
        "scenario": "inverse_design", "strategy": "fedadam", "rounds": 700, "clients": 32,
        "inner": {"steps": 1}, "adaptation": {"steps": 0},
        "task": {"weights": "equal", "condition": "target"},
    }  # fmt: skip
    metric = execute(resolve(settings), tmp_path / "run")["metric"]
    assert metric["before"] == metric["after"]
    assert metric["after"] >= 0.98
