"""Heads in closed form and the prior over clients: against their definitions."""

import dataclasses

import pytest
import torch
from torch.func import vmap

from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.learner import Problem
from fedmaml.core.linear import Prior, ridge
from fedmaml.core.losses import binary_cross_entropy, half_squared_error
from fedmaml.core.networks import MLP, LinearModel
from fedmaml.core.params import flatten, map_params
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies import R2D2, EmpiricalBayes, RidgeHead


def draw(*shape: int, name: str = "x") -> torch.Tensor:
    return seeding.normal(seeding.key(4, name), [0], *shape)[0]


def test_both_forms_of_the_ridge_agree_and_zero_rows_change_nothing() -> None:
    y, strength = draw(6, 2, name="y"), torch.tensor(0.7, dtype=torch.float64)
    for features in (3, 9):
        x = draw(6, features)
        weights = ridge(x, y, strength)
        gram = x.T @ x + strength * torch.eye(features).double()
        expected = torch.linalg.inv(gram) @ x.T @ y
        torch.testing.assert_close(weights, expected, rtol=1e-10, atol=1e-12)
        padded = ridge(
            torch.cat([x, torch.zeros(5, features).double()]),
            torch.cat([y, torch.zeros(5, 2).double()]),
            strength,
        )
        torch.testing.assert_close(padded, weights, rtol=1e-10, atol=1e-12)


# --- R2-D2 ------------------------------------------------------------------------------------


def test_r2d2_predicts_by_the_ridge_of_its_one_hot_labels(classification) -> None:
    strategy = R2D2(lam=0.5, scale=3.0)
    start = strategy.build(classification.problem, seeding.generator(0))
    task, body = classification.task(), start.state.meta["theta"]
    assert list(body) == ["body.0.weight", "body.0.bias"]

    def embedded(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([start.learner.apply(body, x), torch.ones(len(x), 1).double()], 1)

    z, y = embedded(task.support.x), torch.eye(3).double()[task.support.y]
    weights = torch.linalg.inv(z.T @ z + 0.5 * torch.eye(7)) @ z.T @ y
    predict = strategy.adapt(start.learner, start.state.meta, {}, task.support)
    expected = 3.0 * embedded(task.query.x) @ weights
    torch.testing.assert_close(predict(task.query.x), expected, rtol=1e-9, atol=1e-10)


def test_the_order_of_the_support_does_not_matter_to_heads_in_closed_form(
    classification, regression
) -> None:
    for strategy, example in ((R2D2(), classification), (RidgeHead(), regression),
                              (EmpiricalBayes(), regression)):  # fmt: skip
        start = strategy.build(example.problem, seeding.generator(0))
        support, query = example.task()
        turned = Batch(support.x.flip(0), support.y.flip(0))
        one, other = (
            strategy.adapt(start.learner, start.state.meta, {}, batch)(query.x)
            for batch in (support, turned)
        )
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_each_refuses_what_it_cannot_solve(classification, regression, parabola) -> None:
    for strategy, example, message in (
        (R2D2(), regression, "needs a problem with classes"),
        (RidgeHead(), classification, "has 3 classes; r2d2"),
        (RidgeHead(), parabola, "no layers before its head"),
        (EmpiricalBayes(), classification, "a squared loss"),
    ):
        with pytest.raises(UnsupportedProblemError, match=message):
            strategy.build(example.problem, seeding.generator(0))


# --- ridge head -------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["body", "inputs"])
def test_a_strong_ridge_keeps_the_pooled_head_and_a_weak_one_fits(on: str, regression) -> None:
    start = RidgeHead(on=on).build(regression.problem, seeding.generator(0))
    support, query = regression.task()

    def adapted(lam: float, pooled: bool = True):
        strategy = RidgeHead(on=on, lam=lam, pooled=pooled)
        state = strategy.build(regression.problem, seeding.generator(0)).state
        return strategy.adapt(start.learner, state.meta, {}, support)

    strong, weak = adapted(1e12), adapted(1e-9)
    assert adapted(1e12, pooled=False)(query.x).abs().max() < 1e-6
    whole = MLP((4, 6, 1), torch.tanh).double()
    whole.load_state_dict(start.state.meta["theta"])
    torch.testing.assert_close(strong(query.x), whole(query.x), rtol=1e-6, atol=1e-6)
    left = (weak(support.x) - support.y).abs().max()
    assert left < 0.05 * (strong(support.x) - support.y).abs().max()


def test_a_logistic_head_is_the_minimum_of_its_penalised_loss() -> None:
    problem = Problem(
        lambda: MLP((4, 5, 1), torch.tanh), binary_cross_entropy, (), dtype=torch.float64
    )
    strategy = RidgeHead(lam=0.3, newton=20)
    start = strategy.build(problem, seeding.generator(0))
    x, y = draw(12, 4), (draw(12, name="y") > 0).double()
    theta = start.state.meta["theta"]
    z = torch.cat([start.learner.apply({n: theta[n] for n in theta if n[0] == "b"}, x),
                   torch.ones(12, 1).double()], 1)  # fmt: skip
    predict = strategy.adapt(start.learner, start.state.meta, {}, Batch(x, y))
    pooled = z @ torch.cat([theta["head.weight"].T, theta["head.bias"][None]])
    weights = torch.linalg.lstsq(z, predict(x) - pooled).solution
    slope = z.T @ (torch.sigmoid(predict(x)) - y[:, None]) + 0.3 * weights
    assert slope.abs().max() < 1e-8
    assert weights.abs().max() > 0.01


# --- empirical Bayes --------------------------------------------------------------------------


def test_the_posterior_is_that_of_precisions() -> None:
    """V = (S^-1 + Z'Z / s)^-1, mu = V (S^-1 m + Z'y / s)."""
    z, y, mean = draw(5, 3), draw(5, name="y"), draw(3, name="m")
    root, noise = draw(3, 3, name="r"), torch.tensor(0.4, dtype=torch.float64)
    spread = root @ root.T + 0.1 * torch.eye(3)
    found = Prior(mean, spread, noise).posterior(z, y)
    covariance = torch.linalg.inv(torch.linalg.inv(spread) + z.T @ z / noise)
    expected = covariance @ (torch.linalg.solve(spread, mean) + z.T @ y / noise)
    torch.testing.assert_close(found, (expected, covariance), rtol=1e-9, atol=1e-10)


CLIENTS, EXAMPLES, FEATURES, NOISE = 400, 8, 3, 0.3


def clients_of_a_prior() -> tuple[Task, torch.Tensor, torch.Tensor]:
    """Return tasks of linear clients, the mean of their weights and their covariance."""
    mean = torch.tensor([1.0, -2.0, 0.5]).double()
    root = torch.tensor([[0.5, 0, 0], [0.3, 0.2, 0], [0, 0, 0.05]]).double()
    clients = range(CLIENTS)
    weights = mean + seeding.normal(seeding.key(1, "w"), clients, FEATURES) @ root.T
    x = seeding.normal(seeding.key(1, "x"), clients, EXAMPLES, FEATURES)
    y = (x @ weights[..., None])[..., 0]
    y = y + NOISE * seeding.normal(seeding.key(1, "e"), clients, EXAMPLES)
    return Task(Batch(x[:, :4], y[:, :4]), Batch(x[:, 4:], y[:, 4:])), mean, root @ root.T


def test_it_finds_the_prior_of_its_clients_and_predicts_as_who_knows_it() -> None:
    """Few examples each: four of three weights with which a client adapts."""
    tasks, mean, covariance = clients_of_a_prior()
    problem = Problem(
        lambda: LinearModel(FEATURES, 1, bias=False), half_squared_error, (), dtype=torch.float64
    )
    strategy = EmpiricalBayes(spread=100.0)
    learner, state, _ = strategy.build(problem, seeding.generator(0))
    errors = []
    for _ in range(60):
        sent = vmap(
            lambda task, meta=state.meta: strategy.client_update(learner, meta, {}, task).update
        )(tasks)
        averaged = {g: map_params(lambda v: v.mean(0), params) for g, params in sent.items()}
        state = strategy.server_update(state, averaged)
        errors.append(float((flatten(state.meta["theta"]) - mean).norm()))
    found = state.meta["prior"]
    # Standard errors: 0.5 / sqrt(400) = 0.025 of a mean; the covariance's are of that order, too.
    assert errors[0] < 0.2
    assert errors[-1] < 0.08
    assert (found["head.covariance"] - covariance).abs().max() < 0.08
    assert float(found["head.noise"]) == pytest.approx(NOISE**2, rel=0.15)

    def query_loss(meta) -> float:
        def of_one(task: Task) -> torch.Tensor:
            return learner.query_loss(strategy.adapt(learner, meta, {}, task.support), task.query)

        return float(vmap(of_one)(tasks).mean())

    oracle = {"theta": {"head.weight": mean[None]},
              "prior": {"head.covariance": covariance,
                        "head.noise": torch.tensor(NOISE**2).double()}}  # fmt: skip
    broad = oracle | {"prior": oracle["prior"] | {"head.covariance": 1e4 * torch.eye(3).double()}}
    assert query_loss(state.meta) < 1.05 * query_loss(oracle)
    assert query_loss(state.meta) < 0.5 * query_loss(broad)  # least squares, client by client


def test_its_body_learns_by_the_gradient_of_the_evidence(regression) -> None:
    """What a client sends for the body is what autograd says of the evidence, and it is not 0."""
    strategy = EmpiricalBayes()
    start = strategy.build(regression.problem, seeding.generator(0))
    sent = strategy.client_update(start.learner, start.state.meta, {}, regression.task())
    assert set(sent.update["theta"]) == {
        "body.0.weight", "body.0.bias", "head.weight", "head.bias",
    }  # fmt: skip
    assert all(bool(value.abs().max() > 0) for value in sent.update["theta"].values())
    assert float(sent.weight) == 1
    moved = dataclasses.replace(strategy, noise=2.0)
    other = moved.build(regression.problem, seeding.generator(0))
    assert float(other.state.meta["prior"]["head.noise"]) == 2.0
