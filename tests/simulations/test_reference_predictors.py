"""Ready-made references against scikit-learn and by hand, and the oracles of the scenarios."""

import math

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from fedmaml.computing.references import evaluate_references
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.tasks import Batch, unstack
from fedmaml.simulations import references
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.scenarios import Digits, Hospitals, Quadratic, Sinusoid
from fedmaml.simulations.scenarios.sinusoid import _mean_given_one_point

RNG = np.random.default_rng(0)


def tensor(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=shape))


def training(*batches: Batch, federated: bool = True) -> TrainingClients:
    return TrainingClients("x", federated, {}, lambda: batches)


def numbers(examples: int = 12) -> Batch:
    x = tensor(examples, 3)
    return Batch(x, x @ torch.tensor([[1.0], [-2.0], [0.5]]).double() + 0.1 * tensor(examples, 1))


def predicted(reference, support: Batch, x: torch.Tensor, *others: Batch) -> torch.Tensor:
    clients = training(*others, federated=reference.federated)
    return reference.fit(clients, **reference.grid[0])(support)(x)


# --- ready-made


def test_constants_are_means_shares_and_base_rates() -> None:
    x = tensor(4, 3)
    y = torch.tensor([1.0, 0.0, 1.0, 1.0]).double()
    rate = predicted(references.constant(references.BINARY), Batch(x, y), tensor(5, 3))
    assert rate.shape == (5, 1)
    assert torch.allclose(rate.sigmoid(), torch.tensor(0.75).double())
    labels = torch.tensor([2, 0, 2, 2])
    shares = predicted(references.constant(references.classes(3)), Batch(x, labels), tensor(5, 3))
    expected = torch.tensor([0.25, 0.0, 0.75]).double()
    assert torch.allclose(shares.softmax(1), expected.expand(5, 3), atol=1e-5)
    mean = predicted(references.constant(references.NUMBERS), Batch(x, y[:, None]), tensor(5, 3))
    assert torch.equal(mean, torch.full((5, 1), 0.75).double())


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_base_rate_of_one_label_has_a_finite_logit_on_its_side(label: float) -> None:
    support = Batch(tensor(4, 3), torch.full((4,), label).double())
    logit = predicted(references.constant(references.BINARY), support, tensor(2, 3))
    assert logit.isfinite().all()
    assert bool((logit > 0).all()) == (label == 1.0)


def test_persistence_is_the_last_value_of_the_window() -> None:
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert predicted(references.persistence(), numbers(), x).tolist() == [[4.0, 5.0], [10.0, 11.0]]
    assert predicted(references.persistence(), numbers(), x[..., 0]).tolist() == [[4.0], [10.0]]


def test_nearest_neighbours_are_scikit_learns() -> None:
    support, x = numbers(), tensor(9, 3)
    for count in (1, 4):
        reference = references.nearest_neighbour(references.NUMBERS, [count])
        model = KNeighborsRegressor(count).fit(support.x.numpy(), support.y.numpy())
        found = predicted(reference, support, x)
        assert np.allclose(found.numpy(), model.predict(x.numpy()))


def test_more_neighbours_than_examples_are_all_examples() -> None:
    support = numbers(3)
    reference = references.nearest_neighbour(references.NUMBERS, [5])
    assert torch.allclose(predicted(reference, support, tensor(2, 3)), support.y.mean(0))


def test_nearest_neighbour_on_digits_is_scikit_learns_at_every_device() -> None:
    scenario = Digits(seed=3)
    (found,) = evaluate_references(scenario, torch.float32)
    assert (found.name, found.federated) == ("1-nearest neighbour", True)
    (group,) = scenario.tasks("test", scenario.clients()["test"], 0, {})
    model = KNeighborsClassifier(1, algorithm="brute")
    for row in found.clients:
        task = unstack(group)[row["client"]]
        model.fit(task.support.x.numpy(), task.support.y.numpy())
        accuracy = model.score(task.query.x.numpy(), task.query.y.numpy())
        assert row["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert len(found.clients) == scenario.test_clients


def test_least_squares_is_scikit_learns_linear_regression() -> None:
    support, x = numbers(), tensor(9, 3)
    model = LinearRegression().fit(support.x.numpy(), support.y.numpy())
    found = predicted(references.least_squares(), support, x)
    assert np.allclose(found.numpy(), model.predict(x.numpy()))


def test_least_squares_with_fewer_examples_than_columns_has_the_smallest_coefficients() -> None:
    support, x = numbers(2), tensor(9, 3)
    coefficients = np.linalg.pinv(support.x.numpy()) @ support.y.numpy()
    found = predicted(references.least_squares(lambda x: x), support, x)
    assert np.allclose(found.numpy(), x.numpy() @ coefficients)


def test_ridge_to_the_mean_is_ridge_on_what_the_mean_leaves() -> None:
    # w = m + argmin |y - X m - X v|^2 + weight |v|^2: scikit-learn's ridge on the rest.
    support, x, others = numbers(), tensor(9, 3), [numbers(8) for _ in range(5)]
    own = [LinearRegression(fit_intercept=False).fit(o.x.numpy(), o.y.numpy()) for o in others]
    mean = np.mean([model.coef_ for model in own], axis=0)
    rest = support.y.numpy() - support.x.numpy() @ mean.T
    ridge = Ridge(alpha=3.0, fit_intercept=False).fit(support.x.numpy(), rest)
    expected = x.numpy() @ (mean + ridge.coef_).T
    reference = references.ridge_to_the_mean(lambda x: x, [3.0])
    assert np.allclose(predicted(reference, support, x, *others).numpy(), expected)


def test_logistic_regression_is_scikit_learns() -> None:
    x = tensor(20, 3)
    y = (x[:, 0] + 0.5 * tensor(20) > 0).double()
    model = LogisticRegression(C=0.3, max_iter=1000).fit(x.numpy(), y.numpy())
    reference = references.logistic_regression([0.3])
    found = predicted(reference, Batch(x, y), x)
    assert np.allclose(found.numpy()[:, 0], model.decision_function(x.numpy()))


def test_logistic_regression_of_one_class_predicts_it() -> None:
    found = predicted(
        references.logistic_regression(), Batch(tensor(5, 3), torch.ones(5)), tensor(4, 3)
    )
    assert found.shape == (4, 1)
    assert found.isfinite().all()
    assert (found > 0).all()


def test_a_pooled_forest_is_scikit_learns_on_all_training_clients_and_no_federations() -> None:
    others, support, x = [numbers(30), numbers(30)], numbers(), tensor(9, 3)
    model = RandomForestRegressor(7, random_state=0)
    model.fit(torch.cat([o.x for o in others]).numpy(), torch.cat([o.y for o in others])[:, 0])
    reference = references.random_forest(references.NUMBERS, trees=7)
    assert not reference.federated
    found = predicted(reference, support, x, *others)
    assert np.allclose(found.numpy()[:, 0], model.predict(x.numpy()))


def test_a_forest_of_a_client_predicts_classes_it_has_seen() -> None:
    x = torch.cat([tensor(20, 2) - 5, tensor(20, 2) + 5])
    support = Batch(x, torch.arange(40) // 20 * 2)  # classes 0 and 2 of 3
    reference = references.random_forest(references.classes(3), trees=9, pooled=False)
    assert reference.federated
    found = predicted(reference, support, torch.tensor([[-5.0, -5.0], [5.0, 5.0]]))
    assert found.argmax(1).tolist() == [0, 2]


def test_who_calls_itself_federated_gets_no_examples_of_others() -> None:
    others = [numbers(4), numbers(4)]
    clients = training(*others)
    with pytest.raises(ConfigurationError, match=r"'x' pools the examples .*federated=False"):
        clients.examples()
    # What every client may compute and send is what a federation can average.
    mean = clients.mean(lambda examples: examples.y.sum())
    assert float(mean) == pytest.approx(float((others[0].y.sum() + others[1].y.sum()) / 2))


# --- scenarios


def test_the_oracle_of_quadratic_has_no_loss() -> None:
    """f_i(c_i) = 0, and the support, whose inputs sqrt(n) A_i^(1/2) are regular, says c_i."""
    (oracle,) = evaluate_references(Quadratic(), torch.float64)
    assert oracle.oracle
    assert len(oracle.clients) == 8
    assert all(row["loss"] < 1e-24 for row in oracle.clients)


@pytest.mark.parametrize("shots", [2, 5])
def test_the_oracle_of_the_sinusoid_has_no_loss_from_two_points_on(shots: int) -> None:
    """Two points without noise determine a sin x + b cos x, unless they are k pi apart."""
    scenario = Sinusoid(test_shots=shots, test_clients=40)
    (oracle,) = evaluate_references(scenario, torch.float64)
    assert max(row["mse"] for row in oracle.clients) < 1e-18


@pytest.mark.parametrize(("x", "y"), [(0.7, 1.3), (-3.2, 0.4), (2.0, 0.05)])
def test_the_oracle_of_one_point_is_the_posterior_mean(x: float, y: float) -> None:
    """Against the mean of those of 8 million drawn curves that pass within .002 of the point."""
    rng = np.random.default_rng(1)
    amplitude = rng.uniform(0.1, 5.0, 8_000_000)
    phase = rng.uniform(0.0, math.pi, 8_000_000)
    near = np.abs(amplitude * np.sin(x - phase) - y) < 0.002
    curves = np.stack([amplitude * np.cos(phase), -amplitude * np.sin(phase)])[:, near]
    error = curves.std(1) / np.sqrt(near.sum())
    point = (torch.tensor(value, dtype=torch.float64) for value in (x, y))
    found = _mean_given_one_point(*point)[:, 0].numpy()
    assert np.abs(found - curves.mean(1)) == pytest.approx([0, 0], abs=float(4 * error.max()))


def test_hospitals_are_held_against_base_rate_and_logistic_regressions(data_dir) -> None:
    scenario = Hospitals(data_dir=str(data_dir), network="lr")
    rate, logistic, pooled = evaluate_references(scenario, torch.float32)
    assert [rate.name, logistic.name] == ["base rate", "logistic regression"]
    assert (pooled.name, pooled.federated) == ("pooled logistic regression", False)
    # Everybody gets the same logit: AUC is .5, and accuracy the share of the commoner label.
    totals = {name: torch.zeros_like(value) for name, value in scenario.statistics(0).items()}
    for client in scenario.clients()["train"]:
        for name, value in scenario.statistics(client).items():
            totals[name] = totals[name] + value
    for row in rate.clients:
        ((_, task),) = unstack(scenario.tasks("test", [row["client"]], 1, totals)[0]).items()
        ill = float(task.support.y.mean()) > 0.5
        share = float((task.query.y == float(ill)).double().mean())
        assert row["accuracy"] == pytest.approx(share, abs=1e-6)
        assert (row["auc"], row["balanced_accuracy"]) == (0.5, 0.5)
    for each in (logistic, pooled):
        assert all(row["auc"] > 0.6 for row in each.clients if row["client"] in (0, 1))
