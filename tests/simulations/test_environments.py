"""Environments against what their rules say, and bandits against dynamic programming."""

import math

import pytest
import torch

from fedmaml.core import seeding
from fedmaml.simulations.environments import prices, rollout, tables
from fedmaml.simulations.environments.bandits import (
    BernoulliBandits,
    DelayedBandit,
    bayes_value,
    index_table,
    sampled_action,
)
from fedmaml.simulations.environments.navigation import (
    HalfCircle,
    PointNavigation,
    goals_on_half_circle,
    straight_to,
)
from fedmaml.simulations.environments.one_link import OneLinkArm


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- bandits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arms", "pulls", "expected"),
    [
        (2, 1, 0.5),
        (2, 2, 1.0833333333),
        (2, 3, 1.6666666667),
        (2, 5, 2.8888888889),
        (2, 10, 6.0217857143),
        (2, 20, 12.4312649059),
        (3, 5, 3.00694444),
        (5, 5, 3.05208333),
        (5, 10, 6.65998787),
        (10, 10, 6.71395119),
    ],
)
def test_the_best_expectation_is_that_of_dynamic_programming(
    arms: int, pulls: int, expected: float
) -> None:
    assert bayes_value(arms, pulls) == pytest.approx(expected, abs=1e-8)


def test_indices_of_an_unknown_arm_grow_with_the_pulls_left() -> None:
    found = index_table(5)[1:, 0, 0].tolist()
    assert found == pytest.approx([0.4975, 0.555, 0.59, 0.615, 0.635], abs=1e-9)


def test_the_index_policy_expects_what_is_best_of_two_arms_and_two_pulls() -> None:
    """First pull either; then the same arm if it won (2/3), else the other (1/2): 13/12."""
    table = index_table(2)
    assert table[1, 1, 0] > table[1, 0, 0] > table[1, 0, 1]
    assert bayes_value(2, 2) == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 1 / 2)


def test_arms_pay_with_their_probabilities() -> None:
    environment = BernoulliBandits(horizon=50, arms=3)
    pays = doubles(0.1, 0.5, 0.9).expand(400, 3)
    chance = seeding.uniform(seeding.key(0), [0], 400, 50, 1)[0]
    played = rollout(environment, lambda *_: torch.full((400,), 2), {"pays": pays}, chance, chance)
    error = math.sqrt(0.9 * 0.1 / 20_000)
    assert float(played.rewards.mean()) == pytest.approx(0.9, abs=4 * error)
    assert played.observations[0, 1, :3].tolist() == [0, 0, 1]
    torch.testing.assert_close(played.observations[:, 1:, 3], played.rewards[:, :-1])
    assert played.observations[0, :3, 4].tolist() == pytest.approx([1, 0.98, 0.96])


def test_uniform_numbers_choose_actions_with_their_probabilities() -> None:
    logits = doubles(0.2, 0.3, 0.5).log().expand(5, 3)
    uniform = doubles(0.1, 0.21, 0.49, 0.51, 0.999999999999)
    assert sampled_action(logits, uniform).tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("pays", [0, 1])
def test_the_reward_comes_late_and_only_for_the_right_choice(pays: int) -> None:
    environment = DelayedBandit(horizon=11)
    world = {"pays": doubles(pays, pays), "delay": doubles(10, 3)}
    for chosen in (0, 1):
        action = torch.full((2,), chosen)
        noise = torch.zeros(2, 11, 1, dtype=torch.float64)
        played = rollout(
            environment, lambda _seen, _noise, action=action: action, world, noise, noise
        )
        assert played.rewards.nonzero().tolist() == ([[0, 10], [1, 3]] if chosen == pays else [])
        assert played.alive.sum(1).tolist() == [11, 4]


# --- motion -----------------------------------------------------------------------------------


def test_navigation_clips_the_action_and_then_scales_it() -> None:
    environment, goal = PointNavigation(), doubles(0.3, -0.2)[None]
    place, reward, _ = environment.step({"goal": goal}, goal * 0, doubles(5.0, -0.4)[None], goal)
    assert place[0].tolist() == pytest.approx([0.1, -0.04])
    assert float(reward[0]) == pytest.approx(-math.hypot(0.2, 0.16))


def test_navigation_ends_at_the_goal_and_rewards_stop() -> None:
    environment, goal = PointNavigation(horizon=10), doubles(0.25, 0.1)[None]
    noise = torch.zeros(1, 10, 2, dtype=torch.float64)
    played = rollout(
        environment, lambda seen, _: straight_to(goal, seen), {"goal": goal}, noise, noise
    )
    assert played.alive[0].tolist() == [1, 1, 1] + [0] * 7
    expected = -(0.15 + 0.05)  # after .1 and .2 of .25; the other coordinate is there at once
    assert float(played.rewards.sum()) == pytest.approx(expected)
    assert float(environment.best_return(goal)[0]) == pytest.approx(expected)


def test_standing_still_earns_the_distance_in_every_step() -> None:
    """E |goal| over [-.5, .5]^2 is (sqrt 2 + asinh 1) / 6, so 100 steps cost 38.3."""
    goal = seeding.uniform(seeding.key(3), range(4000), 2) - 0.5
    noise = torch.zeros(4000, 100, 2, dtype=torch.float64)
    played = rollout(
        PointNavigation(), lambda seen, _: torch.zeros_like(seen), {"goal": goal}, noise, noise
    )
    exact = 100 * (math.sqrt(2) + math.asinh(1)) / 6
    assert exact == pytest.approx(38.26, abs=0.01)
    assert float(-played.rewards.sum(1).mean()) == pytest.approx(exact, abs=1.0)


def test_a_sparse_goal_is_noticed_within_its_radius() -> None:
    environment = HalfCircle(radius=0.3)
    goal = goals_on_half_circle(doubles(0.0))  # (1, 0)
    _, far, goes_on = environment.step({"goal": goal}, doubles(0.5, 0)[None], goal * 0, goal)
    _, near, _ = environment.step({"goal": goal}, doubles(0.8, 0)[None], goal * 0, goal)
    assert (float(far[0]), float(near[0])) == pytest.approx((0, 0.8))
    assert bool(goes_on[0])


def test_a_goal_that_is_shown_stands_behind_the_place() -> None:
    goal, place = doubles(0.0, 1.0)[None], doubles(0.5, 0.25)[None]
    for shown, expected in ((False, [0.5, 0.25]), (True, [0.5, 0.25, 0.0, 1.0])):
        seen = HalfCircle(shown=shown).observe({"goal": goal}, place, 3)
        assert seen[0].tolist() == expected


def test_the_arm_without_torque_swings_as_a_pendulum_does() -> None:
    """One step by hand: dw = -dt m g l / I, I = .1 + m / 4."""
    environment = OneLinkArm()
    world = {"mass": doubles(2.0), "friction": doubles(0.5), "target": doubles(0.3)}
    state, reward, _ = environment.step(
        world, environment.begin(world), doubles(0)[None], doubles(0)[None]
    )
    speed = -0.05 * 2 * 9.81 * 0.5 / 0.6
    assert state[0].tolist() == pytest.approx(
        [0.05 * 30 * math.tanh(speed / 30), 30 * math.tanh(speed / 30)]
    )
    assert float(reward[0]) == pytest.approx(-math.log1p(10 * (state[0, 0].item() - 0.3) ** 2))


def test_the_pathwise_gradient_of_the_arm_equals_finite_differences() -> None:
    environment = OneLinkArm(horizon=5)
    world = {"mass": doubles(1.4), "friction": doubles(0.6), "target": doubles(0.8)}
    noise = seeding.normal(seeding.key(4), [0], 1, 5, 1)[0]

    def total(gains: torch.Tensor) -> torch.Tensor:
        def choose(seen: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            q, w, target = seen.unbind(-1)
            return (gains[0] * (target - q) - gains[1] * w + gains[2] * torch.cos(q))[:, None]

        return rollout(environment, choose, world, noise, noise).rewards.sum()

    point = doubles(20, 5, 3).requires_grad_()
    (slope,) = torch.autograd.grad(total(point), point)
    for index in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[index] = 1e-5
        difference = (total(point.detach() + step) - total(point.detach() - step)) / 2e-5
        assert float(slope[index]) == pytest.approx(float(difference), rel=1e-6, abs=1e-9)


def test_an_episode_is_the_same_alone_and_among_others() -> None:
    world = {
        "goal": seeding.uniform(seeding.key(5), range(6), 2) - 0.5,
    }
    noise = seeding.normal(seeding.key(6), range(6), 20, 2)

    def choose(seen: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return torch.tanh(seen) + noise

    together = rollout(PointNavigation(), choose, world, noise, noise)
    alone = rollout(PointNavigation(), choose, {"goal": world["goal"][3:4]}, noise[3:4], noise[3:4])
    for many, one in zip(together, alone, strict=True):
        assert torch.equal(many[3:4], one)


# --- prices -----------------------------------------------------------------------------------


def test_volatility_and_features_know_the_past_only() -> None:
    returns = 0.01 * seeding.normal(seeding.key(7), range(3), 200)
    changed = returns.clone()
    changed[:, 150:] *= -3
    sigma, other = prices.volatility(returns), prices.volatility(changed)
    assert torch.equal(sigma[:, :150], other[:, :150])
    before, after = prices.features(returns, sigma), prices.features(changed, other)
    assert torch.equal(before[:, :150], after[:, :150])
    assert not torch.equal(before[:, 150:], after[:, 150:])


def test_features_are_the_returns_in_units_of_volatility() -> None:
    returns = 0.01 * seeding.normal(seeding.key(8), [0], 100)
    sigma = prices.volatility(returns)
    found = prices.features(returns, sigma)[0, 80]
    assert float(found[0]) == pytest.approx(float(returns[0, 80] / sigma[0, 79]))
    assert float(found[2]) == pytest.approx(float(returns[0, 78] / sigma[0, 77]))
    assert float(found[6]) == pytest.approx(
        float(returns[0, 71:81].sum() / (sigma[0, 80] * math.sqrt(10)))
    )


def test_earnings_pay_for_every_change_of_the_position() -> None:
    position, later = doubles(1, 1, -1), doubles(0.01, -0.02, 0.03)
    found = prices.earned(position, later, 0.001)
    assert found.tolist() == pytest.approx([0.009, -0.02, -0.03 - 0.002])


def test_a_market_day_by_day_earns_what_its_positions_do() -> None:
    returns = 0.01 * seeding.normal(seeding.key(9), range(3), 90)
    sigma = prices.volatility(returns)
    world = {
        "features": prices.features(returns, sigma)[:, 69:89],
        "scale": (prices.TARGET / sigma).clamp(max=prices.MAX_LEVERAGE)[:, 69:89],
        "later": returns[:, 70:90],
    }
    noise = torch.zeros(3, 20, 0, dtype=torch.float64)
    played = rollout(prices.Market(), lambda seen, _: torch.tanh(seen[:, 8:]), world, noise, noise)
    position = torch.tanh(world["features"][..., 8]) * world["scale"]
    expected = prices.earned(position, world["later"], 5e-4)
    torch.testing.assert_close(played.rewards, expected)
    assert torch.equal(played.observations, world["features"])


# --- small processes --------------------------------------------------------------------------


def test_episodes_of_a_small_process_have_the_expectation_of_the_enumeration() -> None:
    count, theta = 40_000, doubles(0.3, -0.4)
    noise = seeding.uniform(seeding.key(10), [0], count, 2)[0]
    chance = seeding.uniform(seeding.key(11), [0], count, 2, 1)[0]

    def choose(seen: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        return (uniform < theta[seen[:, 0].long()].sigmoid()).long()

    world = {
        "transition": tables.TRANSITION.expand(count, 2, 2),
        "reward": tables.REWARD.expand(count, 2, 2),
    }
    found = rollout(tables.SmallProcess(), choose, world, noise, chance).rewards.sum(1)
    error = float(found.std()) / math.sqrt(count)
    assert float(found.mean()) == pytest.approx(1.282324878119725, abs=4 * error)
