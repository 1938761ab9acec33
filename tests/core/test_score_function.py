"""Estimators of policy gradients, against sums that can be done by hand."""

import pytest
import torch

from fedmaml.core import seeding
from fedmaml.core.score_function import (
    box,
    dice,
    discounted,
    generalised_advantages,
    linear_baseline,
    normalised,
    returns_to_go,
    surrogate,
    time_features,
)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_returns_to_go_add_what_is_still_to_come() -> None:
    rewards = doubles(1, 0, 4)
    assert returns_to_go(rewards).tolist() == [5, 4, 4]
    assert returns_to_go(rewards, 0.5).tolist() == [2, 2, 4]  # 1 + .5 * 2, .5 * 4
    assert discounted(rewards, 0.5).tolist() == [1, 0, 1]


def test_a_reward_ten_steps_later_reaches_the_first_action() -> None:
    rewards = torch.zeros(11, dtype=torch.float64)
    rewards[10] = 1
    log_prob = torch.full((11,), -0.7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(
        surrogate("lvc", log_prob, returns_to_go(rewards, 0.9)), log_prob
    )
    assert float(slope[0]) == pytest.approx(-(0.9**10))


def test_box_is_one_and_keeps_derivatives() -> None:
    point = doubles(-2.0).requires_grad_()
    value = box(point**2)
    (slope,) = torch.autograd.grad(value, point, create_graph=True)
    (second,) = torch.autograd.grad(slope, point)
    # exp(x^2 - c): f' = 2x f, f'' = (2 + 4x^2) f, where f = 1
    assert [value.item(), slope.item(), second.item()] == [1.0, -4.0, 18.0]


def test_gae_is_returns_less_values_at_one_and_differences_at_zero() -> None:
    rewards, values = doubles(1, 2, 3), doubles(0.5, 1.5, 2.5)
    far = generalised_advantages(rewards, values, 0.9, 1.0)
    torch.testing.assert_close(far, returns_to_go(rewards, 0.9) - values)
    near = generalised_advantages(rewards, values, 0.9, 0.0)
    assert near.tolist() == pytest.approx([1 + 0.9 * 1.5 - 0.5, 2 + 0.9 * 2.5 - 1.5, 3 - 2.5])


def test_the_linear_baseline_finds_what_is_linear() -> None:
    features = seeding.normal(seeding.key(0), [0], 6, 5, 3)[0]
    weights = doubles(1.0, -2.0, 0.5)
    alive = torch.ones(6, 5, dtype=torch.float64)
    alive[2, 3:] = 0
    target = (features @ weights) * alive + 1e6 * (1 - alive)  # what is not alive has no part
    found = linear_baseline(features, target, alive, l2=1e-9)
    torch.testing.assert_close(found, features @ weights, rtol=1e-7, atol=1e-7)


def test_many_clients_have_the_baselines_that_each_has_alone() -> None:
    features = seeding.normal(seeding.key(1), range(3), 4, 5, 2)
    target = seeding.normal(seeding.key(2), range(3), 4, 5)
    alive = torch.ones_like(target)
    together = torch.func.vmap(linear_baseline)(features, target, alive)
    for client in range(3):
        alone = linear_baseline(features[client], target[client], alive[client])
        torch.testing.assert_close(together[client], alone, rtol=1e-12, atol=1e-12)


def test_features_of_time_count_hundreds_of_steps() -> None:
    found = time_features(torch.full((2, 51, 1), 3.0, dtype=torch.float64))
    assert found[1, 50].tolist() == [3, 9, 0.5, 0.25, 0.125, 1]


def test_normalised_advantages_ignore_what_comes_after_the_end() -> None:
    alive = doubles(1, 1, 1, 0)
    found = normalised(doubles(1, 2, 3, 100), alive)
    assert found.tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5, 0], abs=1e-5)


def test_a_baseline_leaves_the_expectation_of_dice_as_it_is() -> None:
    """One step, two actions: p = sigmoid(x), rewards 3 and 1."""
    point = doubles(0.4).requires_grad_()
    log_prob = torch.stack(
        [torch.nn.functional.logsigmoid(point), torch.nn.functional.logsigmoid(-point)]
    )
    rewards, prob = doubles(3, 1)[:, None], log_prob.detach().exp()[:, 0]

    def derivatives(baseline: torch.Tensor | None) -> list[float]:
        loss = (prob * dice(log_prob, rewards, baseline)).sum()
        (slope,) = torch.autograd.grad(loss, point, create_graph=True)
        (second,) = torch.autograd.grad(slope, point, retain_graph=True)
        return [slope.item(), second.item()]

    p = float(prob[0])  # J = 1 + 2p
    expected = [-2 * p * (1 - p), -2 * p * (1 - p) * (1 - 2 * p)]
    assert derivatives(None) == pytest.approx(expected, rel=1e-12)
    assert derivatives(torch.full((2, 1), 1.7, dtype=torch.float64)) == pytest.approx(
        expected, rel=1e-12
    )


def test_dice_takes_rewards() -> None:
    with pytest.raises(ValueError, match="call dice"):
        surrogate("dice", doubles(0), doubles(0))
