"""Movies: the data, the order of time, and adaptation against its closed forms."""

import gzip
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.learner import Problem, make_learner
from fedmaml.core.linear import with_ones
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import RMSE
from fedmaml.core.seeding import generator
from fedmaml.core.tasks import Batch
from fedmaml.simulations.datasets import movielens
from fedmaml.simulations.references import linear
from fedmaml.simulations.scenarios import Movies
from fedmaml.simulations.scenarios.movies import Stars
from fedmaml.simulations.systems import ratings


def totals(scenario: Movies) -> dict[str, Tensor]:
    of_clients = [scenario.statistics(client)["stars"] for client in scenario.clients()["train"]]
    return {"stars": torch.stack(of_clients).sum(0)}


def test_has_the_published_ratings_in_the_order_of_time(data_dir: Path) -> None:
    people = movielens.load(str(data_dir))
    assert len(people) == 610
    assert sum(len(stars) for _, stars in people.values()) == 100_836
    assert min(len(stars) for _, stars in people.values()) == 20
    with gzip.open(data_dir / "movielens_small" / "ratings.csv.gz", "rt") as lines:
        rows = [line.split(",") for line in lines.read().splitlines()[1:]]
    last = max((row for row in rows if row[0] == "1"), key=lambda row: (int(row[3]), int(row[1])))
    assert people["user 1"][1][-1] == float(last[2])


def test_a_damaged_file_is_named(data_dir: Path, tmp_path: Path) -> None:
    content = (data_dir / "movielens_small" / "ratings.csv.gz").read_bytes()
    (tmp_path / "movielens_small").mkdir()
    (tmp_path / "movielens_small" / "ratings.csv.gz").write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"ratings\.csv\.gz is not the original"):
        Movies(data_dir=str(tmp_path)).clients()


def test_more_shots_than_anybody_rated_are_refused(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="no user of some split has the 5005 ratings"):
        Movies(shots=5000, data_dir=str(data_dir)).clients()


def test_the_support_is_what_was_rated_first(data_dir: Path) -> None:
    scenario = Movies(data_dir=str(data_dir))
    shared, clients = totals(scenario), scenario.clients()["test"]
    mean = float(shared["stars"][1] / shared["stars"][0])
    everyone = movielens.load(str(data_dir))
    for group in scenario.tasks("test", clients[:5], 0, shared):
        for stars in (group.tasks.support.y + mean).round(decimals=3).tolist():
            assert any(_in_order(stars, own[:40].tolist()) for _, own in everyone.values())
    assert scenario.problem().ordered
    assert not Movies(support="random", data_dir=str(data_dir)).problem().ordered


def _in_order(part: list[float], whole: list[float]) -> bool:
    """Return whether a part stands in the whole in its order; films that are left out are gaps."""
    rest = iter(whole)
    return all(value in rest for value in part)


def test_films_and_their_start_come_from_training_users_alone() -> None:
    """Five users rate film 0, and four film 1, in training; users of the test rate both."""
    both = (torch.tensor([0, 1]), torch.tensor([1.0, 5.0], dtype=torch.float64))
    one = (torch.tensor([0]), torch.tensor([2.0], dtype=torch.float64))
    everyone = [both] * 4 + [one] * 2 + [both] * 4
    people = ratings.dealt({f"user {place}": own for place, own in enumerate(everyone)}, 1)
    assert {split: len(clients) for split, clients in people.clients.items()} == {
        "train": 6, "validation": 2, "test": 2,
    }  # fmt: skip
    assert people.items == 1
    assert [items.tolist() for items, _ in people.rated] == [[0]] * 10
    users, items, values = people.of_training()
    assert users.tolist() == [0, 1, 2, 3, 4, 5]
    assert values.sum() == pytest.approx(0)
    assert ratings.biases(items, values).shape == (1,)


def test_one_step_on_the_users_bias_is_the_shrunk_mean() -> None:
    """Half squared error, rate n / (n + s): b_u = sum of rests / (n + s)."""
    films, shrinkage = torch.tensor([[0.3, 0.5], [-0.2, 0.1], [0.0, -1.0]]), 3.0
    learner, theta = make_learner(_problem(films), generator(0))
    x, y = torch.tensor([[0], [2], [1], [0]]), torch.tensor([1.0, 0.5, -0.5, 2.0])
    slope = torch.func.grad(learner.loss)(theta, Batch(x, y))["head.bias"]
    stepped = theta["head.bias"] - 4 / (4 + shrinkage) * slope
    rests = y - films[x[:, 0], 1]
    assert float(stepped) == pytest.approx(float(rests.sum() / (4 + shrinkage)), abs=1e-6)


def test_ridge_is_where_penalised_gradient_descent_ends() -> None:
    draws = torch.Generator().manual_seed(1)
    films = torch.randn(30, 4, generator=draws, dtype=torch.float64)
    x = torch.arange(20)[:, None]
    y = torch.randn(20, generator=draws, dtype=torch.float64)
    centre = torch.tensor([[0.0], [0.0], [0.0], [1.0], [0.0]], dtype=torch.float64)

    def features(which: Tensor) -> Tensor:
        return with_ones(films[which[:, 0]])

    predict = linear.ridge_around(features, centre, 3.0)(Batch(x, y))
    weights, inputs = centre.clone(), features(x)
    for _ in range(5000):
        slope = inputs.T @ (inputs @ weights - y[:, None]) + 3.0 * (weights - centre)
        weights = weights - 0.01 * slope
    everything = torch.arange(30)[:, None]
    torch.testing.assert_close(
        predict(everything).double(), features(everything) @ weights, rtol=1e-4, atol=1e-4
    )


def test_alternating_least_squares_finds_the_factors_of_ratings_without_noise() -> None:
    draws = torch.Generator().manual_seed(2)
    taste, film = (torch.randn(40, 2, generator=draws, dtype=torch.float64) for _ in range(2))
    users = torch.arange(40).repeat_interleave(40)
    items = torch.arange(40).repeat(40)
    values = (taste @ film.T).flatten() + 0.5 * film[items, 0]
    found = ratings.factorised(users, items, values, 2, 1e-6, sweeps=50)
    own = with_ones(found[:, :-1])
    rest = values.view(40, 40) - found[:, -1]
    left = rest.T - own @ torch.linalg.lstsq(own, rest.T).solution
    assert float(left.abs().max()) < 1e-3


def test_pairs_in_order_by_hand() -> None:
    score, stars = torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([4.0, 3.0, 4.0])
    assert float(ratings.pairs_in_order(score, stars)) == 1.0
    assert float(ratings.pairs_in_order(-score, stars)) == 0.0
    assert math.isnan(float(ratings.pairs_in_order(score, torch.ones(3))))


def _problem(films: Tensor):
    return Problem(lambda: Stars(films), half_squared_error, (RMSE,))
