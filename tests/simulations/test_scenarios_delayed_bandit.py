"""Delayed bandit: returns, meta-gradients and what training reaches, against formulas."""

import math
from dataclasses import replace

import pytest
import torch

from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.outer_optimizer import OuterOptimizer
from fedmaml.core.tasks import Task, task_at
from fedmaml.simulations.environments.acting import played
from fedmaml.simulations.scenarios import DelayedBandit
from fedmaml.simulations.scenarios.delayed_bandit import mean_return
from fedmaml.strategies import CATALOGUE

EXACT = DelayedBandit(episodes=0)


def built(strategy: str, lr: float, scenario: DelayedBandit = EXACT):
    algorithm = CATALOGUE[strategy](
        inner=GradientSteps(lr=lr, steps=1), outer=OuterOptimizer(optimizer="sgd", lr=1.0)
    )
    return algorithm, algorithm.build(scenario.problem().in_dtype("float64"), seeding.generator(0))


def point(theta: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"theta": {"logit": torch.tensor(theta, dtype=torch.float64)}}


def tasks(scenario: DelayedBandit, count: int = 6) -> list[Task]:
    group = scenario.tasks("train", range(count), 1, {})[0]
    return [task_at(group.tasks, row) for row in range(count)]


@pytest.mark.parametrize(
    ("lr", "theta", "value", "exact", "first_order"),
    [
        (1, 0, 0.33311446, 0, 0),
        (1, 0.5, 0.33004128, -0.01144486, -0.00571286),
        (1, 2, 0.31123441, -0.00716909, -0.00358175),
        (10, 0, 0.51356600, 0, 0),
        (10, 0.5, 0.49959434, -0.05600809, -0.02480709),
        (10, 2, 0.35537681, -0.07426525, -0.03457415),
        (10, 5, 0.30671677, -0.00037249, -0.00018616),
        (20, 2, 0.41125921, -0.14787667, -0.05886463),
    ],
)
def test_returns_and_meta_gradients_are_those_of_the_table(
    lr: float, theta: float, value: float, exact: float, first_order: float
) -> None:
    for strategy, expected in (("maml", exact), ("fomaml", first_order)):
        algorithm, start = built(strategy, lr)
        sent = [
            algorithm.client_update(start.learner, point(theta), {}, task) for task in tasks(EXACT)
        ]
        slope = -sum(update.update["theta"]["logit"].item() for update in sent) / len(sent)
        after = -sum(update.metrics["loss_after"].item() for update in sent) / len(sent)
        assert slope == pytest.approx(expected, abs=1e-8)
        assert after == pytest.approx(value, abs=1e-8)


def test_the_meta_gradient_is_the_product_of_the_formula() -> None:
    """J'(theta + a J') (1 + a J''), for one client."""
    algorithm, start = built("maml", 10.0)
    for client, task in enumerate(tasks(EXACT)):
        s, c = 2 * (client % 2) - 1, 0.9 ** (1, 5, 10)[client // 2]

        def slope(theta: float, c: float = c, s: int = s) -> float:
            p = 1 / (1 + math.exp(-theta))
            return s * c * p * (1 - p)

        p = 1 / (1 + math.exp(-0.7))
        expected = slope(0.7 + 10 * slope(0.7)) * (1 + 10 * slope(0.7) * (1 - 2 * p))
        sent = algorithm.client_update(start.learner, point(0.7), {}, task)
        assert -sent.update["theta"]["logit"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("strategy", "begin", "reached"),
    [("maml", 3, 0.0), ("maml", -3, 0.0), ("fomaml", 3, 0.0), ("maml", 6, 5.81),
     ("fomaml", 6, 5.92)],
)  # fmt: skip
def test_training_reaches_zero_or_stays_where_it_is_saturated(
    strategy: str, begin: float, reached: float
) -> None:
    """3000 rounds of the outer step, by the formula that the test above holds a client to."""
    pays = torch.tensor([1.0, 1, 1, -1, -1, -1], dtype=torch.float64)
    c = 0.9 ** torch.tensor([1.0, 5, 10] * 2, dtype=torch.float64)
    theta = torch.tensor(float(begin), dtype=torch.float64)
    for _ in range(3000):
        p = theta.sigmoid()
        slope, curve = pays * c * p * (1 - p), pays * c * p * (1 - p) * (1 - 2 * p)
        q = (theta + 10 * slope).sigmoid()
        exact = pays * c * q * (1 - q) * ((1 + 10 * curve) if strategy == "maml" else 1)
        theta = theta + exact.mean()
    assert float(theta) == pytest.approx(reached, abs=1e-3 if reached == 0 else 0.006)


def test_the_server_takes_the_steps_of_the_formula() -> None:
    algorithm, start = built("maml", 10.0)
    state = replace(start.state, meta=point(3.0))
    for _ in range(3):
        sent = [algorithm.client_update(start.learner, state.meta, {}, t) for t in tasks(EXACT)]
        mean = torch.stack([update.update["theta"]["logit"] for update in sent]).mean()
        before, state = state, algorithm.server_update(state, {"theta": {"logit": mean}})
        assert state.meta["theta"]["logit"] < before.meta["theta"]["logit"]
        torch.testing.assert_close(
            state.meta["theta"]["logit"], before.meta["theta"]["logit"] - mean
        )


def test_a_cold_start_takes_a_hundred_steps() -> None:
    """Task s = -1, d = 10: steps of rate 10 until the right action has probability .9."""
    _, start = built("maml", 10.0)
    task = tasks(EXACT)[4]
    assert float(task.support.x["delay"]) == 10.0
    assert float(task.support.x["pays"]) == 0.0

    def loss(theta: dict[str, torch.Tensor], batch: object) -> torch.Tensor:
        return start.learner.loss(theta, batch)

    counts = []
    for begin in (0.0, 3.0, 6.0):
        path = GradientSteps(lr=10.0, steps=200).path(
            loss, point(begin)["theta"], task.support, first_order=True
        )
        counts.append(next(n for n, w in enumerate(path, 1) if w["logit"].sigmoid() <= 0.1))
    assert counts == [4, 12, 125]
    slopes = [0.9**10 * p * (1 - p) for p in (1 / (1 + math.exp(-t)) for t in (0, 3, 6))]
    assert slopes == pytest.approx([0.0872, 0.0158, 0.00086], abs=5e-5)


@pytest.mark.parametrize(
    ("count", "theta", "exact"),
    [
        (1, 0, 0.42821719), (5, 0, 0.46934381), (20, 0, 0.47766649),
        (1, 1, 0.51760120), (5, 1, 0.52728650), (20, 1, 0.52894515),
        (1, -3, 0.05278900), (5, -3, 0.04132699), (20, -3, 0.03717824),
    ],
)  # fmt: skip
def test_steps_on_sampled_episodes_have_the_expectation_of_the_binomial(
    count: int, theta: float, exact: float
) -> None:
    """F_N for s = 1, d = 5, a = 10; the number of right choices is binomial."""
    p, c, lr = torch.tensor(theta).double().sigmoid().item(), 0.9**5, 10.0

    def after(logit: float) -> float:
        return c / (1 + math.exp(-logit))

    expected = sum(
        math.comb(count, k) * p**k * (1 - p) ** (count - k)
        * after(theta + lr * c * k / count * (1 - p))
        for k in range(count + 1)
    )  # fmt: skip
    assert expected == pytest.approx(exact, abs=1e-8)
    _, start = built("maml", lr, DelayedBandit(episodes=count))
    draws = 200_000 // count
    world = {
        "pays": torch.ones(draws, dtype=torch.float64),
        "delay": torch.full((draws,), 5.0, dtype=torch.float64),
    }
    group = played(7, range(draws), (world, world), (count, 1), (1,), draws=seeding.uniform)
    meta = point(theta)["theta"]
    slope = torch.func.vmap(torch.func.grad(start.learner.loss), (None, 0))
    logits = theta - lr * slope(meta, group.tasks.support)["logit"]
    values = c * logits.sigmoid()
    error = float(values.std()) / math.sqrt(draws)
    assert float(values.mean()) == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize(("theta", "exact"), [(0, 0.48065987), (1, 0.52948636), (-3, 0.03604375)])
def test_steps_on_both_actions_reach_the_return_of_the_table(theta: float, exact: float) -> None:
    algorithm, start = built("maml", 10.0)
    task = tasks(EXACT)[3]  # s = 1, d = 5
    sent = algorithm.client_update(start.learner, point(theta), {}, task)
    assert -sent.metrics["loss_after"].item() == pytest.approx(exact, abs=1e-8)


def test_the_metric_is_the_expected_return() -> None:
    _, start = built("maml", 1.0)
    task = tasks(EXACT)[3]  # s = 1, d = 5
    prediction = start.learner.apply(point(0.4)["theta"], task.query.x)
    found = mean_return(prediction, task.query.y)
    assert found.item() == pytest.approx(0.9**5 / (1 + math.exp(-0.4)))
