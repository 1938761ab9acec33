"""Our environments as gymnasium's, and others' in a network that plays them."""

from functools import partial
from typing import Any

import pytest
import torch

from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.tasks import Batch, Task
from fedmaml.simulations.environments import prices, rollout
from fedmaml.simulations.environments.acting import Acting, GaussianPolicy, policy_loss
from fedmaml.simulations.environments.bandits import BernoulliBandits, DelayedBandit
from fedmaml.simulations.environments.navigation import HalfCircle, PointNavigation
from fedmaml.simulations.environments.one_link import OneLinkArm
from fedmaml.simulations.environments.tables import REWARD, TRANSITION, SmallProcess
from fedmaml.strategies import MAML

checker = pytest.importorskip("gymnasium.utils.env_checker")

from fedmaml.simulations.environments.faces import as_gymnasium, from_gymnasium  # noqa: E402


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


GOAL = {"goal": doubles(3.0, 4.0)}  # farther than 100 steps reach
RETURNS = 0.01 * seeding.normal(seeding.key(9), [0], 200)
SIGMA = prices.volatility(RETURNS)
MARKET = {
    "features": prices.features(RETURNS, SIGMA)[0, 99:199],
    "scale": (prices.TARGET / SIGMA).clamp(max=prices.MAX_LEVERAGE)[0, 99:199],
    "later": RETURNS[0, 100:200],
}
CASES: dict[str, tuple[Any, dict[str, torch.Tensor], Any, str]] = {
    "navigation": (PointNavigation(), GOAL, (2,), "uniform"),
    "half circle": (HalfCircle(horizon=100, radius=0.3), GOAL, (2,), "uniform"),
    "arm": (
        OneLinkArm(horizon=100),
        {"mass": doubles(1.2)[0], "friction": doubles(0.4)[0], "target": doubles(0.7)[0]},
        (1,),
        "normal",
    ),
    "bandits": (BernoulliBandits(horizon=100), {"pays": doubles(0.1, 0.9, 0.4, 0.2, 0.6)}, 5,
                "uniform"),
    "delayed bandit": (DelayedBandit(horizon=120),
                       {"pays": doubles(1)[0], "delay": doubles(110)[0]}, 2, "uniform"),
    "small process": (SmallProcess(horizon=100), {"transition": TRANSITION, "reward": REWARD}, 2,
                      "uniform"),
    "market": (prices.Market(horizon=100), MARKET, (1,), "uniform"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_checker_of_gymnasium_has_nothing_to_say(name: str) -> None:
    environment, world, actions, chance = CASES[name]
    face = as_gymnasium(environment, world, actions=actions, chance=chance)
    checker.check_env(face, skip_render_check=True)


@pytest.mark.parametrize("name", CASES)
def test_a_hundred_steps_are_those_of_the_tensors(name: str) -> None:
    environment, world, actions, chance = CASES[name]
    face = as_gymnasium(environment, world, actions=actions, chance=chance)
    face.action_space.seed(3)
    chosen = [torch.as_tensor(face.action_space.sample()) for _ in range(100)]
    face.reset(seed=5)
    steps = [face.step(action.numpy()) for action in chosen]

    face.reset(seed=5)
    draw = face.np_random.standard_normal if chance == "normal" else face.np_random.random
    drawn = torch.stack(
        [torch.from_numpy(draw(size=(1, environment.chances))) for _ in range(100)], 1
    )
    own = iter(chosen)
    played = rollout(
        environment,
        lambda *_: next(own)[None],
        {name: value[None] for name, value in world.items()},
        torch.zeros(1, 100, 1, dtype=torch.float64),
        drawn,
    )
    for step, (seen, reward, ended, _, _) in enumerate(steps):
        assert reward == pytest.approx(float(played.rewards[0, step]), abs=1e-14)
        assert not ended
        if step < 99:
            torch.testing.assert_close(torch.from_numpy(seen), played.observations[0, step + 1])


def test_an_environment_of_others_is_learned_in_by_maml() -> None:
    """Through gymnasium our own navigation gives the updates that it gives as tensors."""
    with seeding.isolated(seeding.generator(0)):
        policy = GaussianPolicy((2, 4, 2))
    sides = []
    for side in ("support", "query"):
        noise = seeding.normal(seeding.key(1, side), [0], 4, 6, 2)[0]
        x = {"goal": doubles(0.4, -0.3).expand(4, 2), "noise": noise, "seed": torch.arange(4)}
        sides.append(Batch(x, torch.zeros(4, dtype=torch.float64)))

    def make(x: dict[str, torch.Tensor]) -> Any:
        # The environment of others clips the action that it gets.
        return as_gymnasium(PointNavigation(6), {"goal": x["goal"]}, actions=(2,))

    sent = []
    for network in (
        lambda: from_gymnasium(make, policy),
        lambda: Acting(PointNavigation(6), policy),
    ):
        problem = Problem(network, partial(policy_loss), (), head="", dtype=torch.float64)
        strategy = MAML(inner=GradientSteps(lr=0.1, steps=1))
        start = strategy.build(problem, seeding.generator(2))
        update = strategy.client_update(start.learner, start.state.meta, {}, Task(*sides))
        sent.append(update.update["theta"])
    for name, value in sent[0].items():
        torch.testing.assert_close(value, sent[1][name], rtol=1e-10, atol=1e-12)


def test_an_episode_that_ends_early_earns_nothing_afterwards() -> None:
    def make(x: dict[str, torch.Tensor]) -> Any:
        return as_gymnasium(PointNavigation(5), {"goal": x["goal"]}, actions=(2,))

    with seeding.isolated(seeding.generator(0)):
        policy = GaussianPolicy((2, 4, 2)).double()
    torch.nn.init.zeros_(policy.mean[-1].weight)
    torch.nn.init.zeros_(policy.mean[-1].bias)
    x = {
        "goal": doubles(0.1, 0.1)[None],
        "noise": torch.ones(1, 8, 2, dtype=torch.float64),  # straight to the goal in one step
        "seed": torch.zeros(1, dtype=torch.int64),
    }
    found = from_gymnasium(make, policy)(x)
    assert found["alive"][0].tolist() == [1] + [0] * 7
    assert found["rewards"].sum().item() == 0.0
