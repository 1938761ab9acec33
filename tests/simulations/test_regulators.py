"""Linear-quadratic regulators: gradients through the motion, against closed forms."""

import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor, nn

from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.tasks import Batch, Task
from fedmaml.core.trees import Tree
from fedmaml.simulations.environments import Outcome, World, rollout
from fedmaml.strategies import CATALOGUE

EFFORT = 0.1  # R, with Q = I


class LinearSystem:
    """x' = A x + B u; the reward is -(|x'|^2 + R u^2). World: A, B and the first state."""

    horizon, chances = 1, 0

    def begin(self, world: World) -> Tensor:
        return world["start"]

    def observe(self, world: World, state: Tensor, step: int) -> Tensor:
        del world, step
        return state

    def step(self, world: World, state: Tensor, action: Tensor, chance: Tensor) -> Outcome:
        del chance
        after = (world["A"] @ state[..., None] + world["B"] @ action[..., None])[..., 0]
        reward = -(after.square().sum(-1) + EFFORT * action.square().sum(-1))
        return Outcome(after, reward, torch.ones_like(reward, dtype=torch.bool))


class Regulated(nn.Module):
    """u = -K x, for some steps; the prediction is the cost."""

    def __init__(self, gains: list[float], steps: int) -> None:
        super().__init__()
        self.gains, self.steps = nn.Parameter(torch.tensor([gains], dtype=torch.float64)), steps

    def forward(self, x: Tree) -> Tensor:
        nothing = torch.zeros(len(x["start"]), self.steps, 0, dtype=torch.float64)
        found = rollout(LinearSystem(), lambda seen, _: -seen @ self.gains.T, x, nothing, nothing)
        return -found.rewards.sum(-1)


def doubles(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("strategy", "expected"), [("maml", -0.34840666666667), ("fomaml", -0.52233333333333)]
)
def test_the_first_order_is_half_off_on_a_regulator_of_one_step(
    strategy: str, expected: float
) -> None:
    """J(k) = (a - b k)^2 + .1 k^2, from x = 1; rate .2, k = .5, three tasks (a, b)."""
    algorithm = CATALOGUE[strategy](inner=GradientSteps(lr=0.2, steps=1))
    problem = Problem(
        lambda: Regulated([0.5], 1), lambda cost, _y: cost, (), head="", dtype=torch.float64
    )
    start = algorithm.build(problem, seeding.generator(0))
    sent = []
    for a, b in ((1.2, 1.0), (0.8, 1.0), (1.0, 0.5)):
        x = {"A": doubles([[a]]), "B": doubles([[b]]), "start": doubles([1.0])}
        batch = Batch(x, doubles(0.0))
        sent.append(
            algorithm.client_update(start.learner, start.state.meta, {}, Task(batch, batch))
        )
    slope = sum(update.update["theta"]["gains"].item() for update in sent) / 3
    after = sum(update.metrics["loss_after"].item() for update in sent) / 3
    assert slope == pytest.approx(expected, abs=1e-13)
    assert after == pytest.approx(0.27875833333333, abs=1e-13)


def test_the_gradient_through_a_long_motion_is_that_of_the_lyapunov_equation() -> None:
    """Fazel et al. 2018, lemma 1: 2 ((R + B'PB) K - B'PA) S, from both unit vectors.

    A - B K has the eigenvalue .8 twice, so what 300 steps leave out is below 1e-50.
    """
    a, b, k = doubles([1, 0.1], [0.2, 1]), doubles([0.0], [0.1]), doubles([6.0, 4.0])
    closed = a - b @ k
    assert [float(closed.trace()), float(closed.det())] == pytest.approx([1.6, 0.64], abs=1e-14)
    p = torch.from_numpy(
        solve_discrete_lyapunov(closed.T.numpy(), (torch.eye(2) + EFFORT * k.T @ k).numpy())
    )
    s = torch.from_numpy(solve_discrete_lyapunov(closed.numpy(), torch.eye(2).double().numpy()))
    formula = 2 * ((EFFORT + b.T @ p @ b) @ k - b.T @ p @ a) @ s
    assert formula[0].tolist() == pytest.approx([2.029797286998934, -1.611034903215974], abs=1e-12)

    network = Regulated([6.0, 4.0], 300)
    x = {"A": a.expand(2, 2, 2), "B": b.expand(2, 2, 1), "start": torch.eye(2).double()}
    cost = network(x).sum() + 2  # of the first states, which no step counts
    (slope,) = torch.autograd.grad(cost, network.gains)
    assert float(cost.detach()) == pytest.approx(25.540123456790127, rel=1e-13)
    assert slope[0].tolist() == pytest.approx(formula[0].tolist(), abs=1e-11)
