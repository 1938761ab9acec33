"""Patients and glucose: the Bayes predictor by other ways, and windows of a sensor's readings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.errors import DataError
from fedmaml.core.learner import make_learner
from fedmaml.core.tasks import Batch, joined, task_at
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations import references
from fedmaml.simulations.datasets import glucose as dataset
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.references import linear
from fedmaml.simulations.scenarios import Glucose, Patients
from fedmaml.simulations.scenarios.patients import (
    COVARIANCE,
    CURVE,
    bayes_risk,
    fomaml_matrix,
    prior,
)
from fedmaml.simulations.systems.glucose_windows import windows

# --- patients -------------------------------------------------------------------------------


def support_of(scenario: Patients, client: int) -> Batch:
    return task_at(scenario.tasks("test", [client], 0, {})[0].tasks, 0).support


def test_the_risk_without_samples_is_the_spread_of_the_patients() -> None:
    curve = torch.stack([-torch.ones(48), -CURVE], 1).double()
    assert bayes_risk(torch.empty(3, 0, dtype=torch.float64)) == pytest.approx(1.2104667, abs=1e-6)
    assert float(torch.trace(curve.T @ curve / 48 @ COVARIANCE)) == pytest.approx(1.2104667)


@pytest.mark.parametrize(
    ("samples", "expected"), [(1, 0.4037), (2, 0.1854), (4, 0.0698), (8, 0.0284), (20, 0.0102)]
)
def test_the_risk_of_random_designs(samples: int, expected: float) -> None:
    share = seeding.uniform(seeding.key(0, "designs"), range(20_000), samples)
    assert bayes_risk(0.5 + 11.5 * share) == pytest.approx(expected, rel=0.03)


def test_the_posterior_is_a_kalman_filters_one_sample_at_a_time() -> None:
    known, support = prior(), support_of(Patients(shots=6), 401)
    mean, spread = known.mean, known.spread
    for x, y in zip(support.x, support.y, strict=True):
        gain = spread @ x / (x @ spread @ x + known.noise)
        mean, spread = mean + gain * (y - x @ mean), spread - torch.outer(gain, x @ spread)
    whole = known.posterior(support.x, support.y)
    torch.testing.assert_close(whole, (mean, spread), rtol=1e-12, atol=1e-12)


def test_ridge_with_the_inverse_covariance_is_the_posterior_mean() -> None:
    known, support = prior(), support_of(Patients(), 402)
    penalty = known.noise * torch.linalg.inv(known.spread)
    left = support.x.T @ support.x + penalty
    ridge = torch.linalg.solve(left, support.x.T @ support.y + penalty @ known.mean)
    torch.testing.assert_close(ridge, known.posterior(*support)[0], rtol=1e-12, atol=1e-12)


def test_many_steps_end_at_least_squares() -> None:
    support = support_of(Patients(), 403)
    weights, rate = prior().mean, 1 / float(torch.linalg.matrix_norm(support.x, 2) ** 2)
    for _ in range(15_000):
        weights = weights - rate * support.x.T @ (support.x @ weights - support.y)
    found = linear.solve(lambda x: x, support)[:, 0]
    torch.testing.assert_close(weights, found, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("steps", "lr", "smallest"),
    [(5, 0.4, 0.0226), (5, 0.8, 0.006), (5, 0.9, -0.009), (5, 1.0, -0.078), (1, 0.8, -0.177)],
)
def test_fomaml_is_stable_only_at_small_rates(steps: int, lr: float, smallest: float) -> None:
    values = torch.linalg.eigvals(fomaml_matrix(4, steps, lr)).real
    assert float(values.min()) == pytest.approx(smallest, abs=0.003)


def test_hierarchical_ridge_nearly_reaches_the_bayes_risk() -> None:
    scenario = Patients()

    def deal() -> list[Batch]:
        tasks = scenario.tasks("train", scenario.clients()["train"], 1, {})[0].tasks
        return [joined(task_at(tasks, row)) for row in range(scenario.train_clients)]

    clients = TrainingClients("hierarchical", True, {}, deal)
    adapt = references.hierarchical_ridge(lambda x: x).fit(clients)
    tasks = scenario.tasks("test", scenario.clients()["test"][:2000], 0, {})[0].tasks
    oracle = prior()
    regrets = []
    for row in range(2000):
        task = task_at(tasks, row)
        best = task.query.x @ oracle.posterior(*task.support)[0]
        found = adapt(task.support)(task.query.x)[:, 0]
        regrets.append(
            (found - task.query.y).square().mean() - (best - task.query.y).square().mean()
        )
    regret = torch.stack(regrets)
    error = float(regret.std()) / len(regret) ** 0.5
    assert -3 * error < float(regret.mean()) < 0.002


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("strategy", "most"), [("maml", 2.0), ("fedadam", 0.5)])
def test_training_ends_at_the_mean_of_those_who_train(
    strategy: str, most: float, seed: int, tmp_path: Path
) -> None:
    """In standard errors of a mean of 200 patients; it starts 19 and 9 of them away."""
    layer = {"scenario": "patients", "strategy": strategy, "seed": seed, "task.test_clients": 2}
    execute(resolve(layer), tmp_path / "run")
    (start,) = RunDirectory(tmp_path / "run").load_meta()["theta"]["head.weight"]
    scenario = Patients(seed=seed)
    mean = scenario.phi(scenario.clients()["train"]).mean(0) * torch.tensor([1.0, 10.0])
    errors = (start - mean) / (prior().spread.diagonal() / scenario.train_clients).sqrt()
    assert float(errors.abs().max()) < most


# --- glucose ----------------------------------------------------------------------------------


def person(values: np.ndarray) -> dataset.Person:
    return dataset.Person("study 1", "study", "T1D", values)


def test_readings_near_the_grid_are_taken_and_gaps_are_not_bridged() -> None:
    minutes = np.array([0, 14, 31, 50, 60, 61])
    grid = dataset.on_grid(minutes, np.array([100.0, 110, 120, 130, 140, 150]))
    np.testing.assert_array_equal(grid, [100, 110, 120, np.nan, 140])


def test_whole_days_added_to_all_times_change_nothing() -> None:
    rng = np.random.default_rng(0)
    minutes = np.cumsum(rng.integers(1, 9, 200))
    values = rng.normal(140, 30, 200)
    later = dataset.on_grid(minutes + 17 * 24 * 60, values)
    np.testing.assert_array_equal(dataset.on_grid(minutes, values), later)


def test_a_network_whose_last_layer_is_zero_predicts_that_nothing_changes(data_dir: Path) -> None:
    scenario = Glucose(data_dir=str(data_dir))
    (group, *_) = scenario.tasks("test", scenario.clients()["test"][:1], 0, {})
    task = task_at(group.tasks, 0)
    problem = scenario.problem()
    learner, theta = make_learner(problem, seeding.generator(0))
    zero = {n: torch.zeros_like(v) if n.startswith("head.") else v for n, v in theta.items()}
    said = learner.apply(zero, task.query.x.float())
    assert not said.any()
    (as_now,) = [each for each in scenario.references() if each.name == "as now"]
    predict = as_now.fit(TrainingClients("as now", True, {}, list))(task.support)
    torch.testing.assert_close(predict(task.query.x.float()), said)


def test_no_window_reaches_over_a_gap() -> None:
    values = np.arange(100.0, 130.0)
    assert len(windows(person(values)).y) == 30 - 5 - 2
    values[15] = np.nan
    assert windows(person(values)).time.tolist() == [*range(5, 13), 14, *range(21, 28)]


def test_constant_glucose_has_no_change() -> None:
    found = windows(person(np.full(40, 140.0)))
    assert not found.y.any()
    assert not found.x.any()
    assert len(windows(person(np.full(3, 140.0))).y) == 0


def test_227_people_take_part_and_nobody_is_in_two_splits(data_dir: Path) -> None:
    clients = Glucose(data_dir=str(data_dir)).clients()
    assert [len(numbers) for numbers in clients.values()] == [143, 27, 57]
    people = dataset.load(str(data_dir))
    assert len(people) == 452
    assert len({each.cohort for each in people}) == 9


def test_a_damaged_file_of_readings_is_named_beside_a_good_list_of_people(
    data_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cgm_glucose"
    folder.mkdir()
    people, readings = ((data_dir / "cgm_glucose" / name).read_bytes()
                        for name in ("subjects.csv", "cgm.npz"))  # fmt: skip
    (folder / "subjects.csv").write_bytes(people)
    for content in (readings[:-1], b"", readings[:100] + b"x" + readings[101:]):
        (folder / "cgm.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"cgm\.npz is not the original file of.*replace it"):
            Glucose(data_dir=str(tmp_path)).clients()


def test_the_support_is_over_before_the_query_begins(data_dir: Path) -> None:
    scenario = Glucose(data_dir=str(data_dir), shots=32)
    for split, round in (("train", 1), ("train", 2), ("test", 0)):
        for client in scenario.clients()[split][:5]:
            task = scenario._task(split, client, round)
            whole = scenario._person(client)
            rows = {tuple(row.tolist()): at for at, row in enumerate(_rows(whole.x, whole.y))}
            support, query = (
                [rows[tuple(row.tolist())] for row in _rows(*batch)] for batch in task
            )
            times = whole.time[torch.tensor(sorted(support))]
            assert len(task.support.y) == 32
            if len(rows) == len(whole.y):  # no twins: rows name their places
                assert max(support) + 2 <= min(query)
                assert support == sorted(support)
            if split == "test":
                assert int(times.max()) < 192


def _rows(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([x, y[:, None]], 1)


def test_ridge_with_a_large_penalty_is_the_pooled_linear_model(data_dir: Path) -> None:
    scenario = Glucose(data_dir=str(data_dir))
    training = scenario.clients()["train"][:20]
    totals = {
        name: sum(scenario.statistics(client)[name] for client in training)
        for name in ("gram", "moment")
    }
    clients = TrainingClients("", True, totals, list)
    fits = {reference.name: reference.fit for reference in scenario.references()}
    task = scenario._task("test", scenario.clients()["test"][0], 0)
    pooled = fits["pooled linear"](clients)(task.support)(task.query.x)
    near = fits["ridge to the pooled linear"](clients, weight=1e12)(task.support)(task.query.x)
    torch.testing.assert_close(near, pooled, rtol=1e-9, atol=1e-9)
    assert not fits["as now"](clients)(task.support)(task.query.x).any()


def test_a_damaged_file_of_readings_is_named(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "cgm_glucose").mkdir()
    for file in (dataset.READINGS, dataset.SUBJECTS):
        content = (data_dir / "cgm_glucose" / file.name).read_bytes()
        (tmp_path / "cgm_glucose" / file.name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"subjects\.csv is not the original"):
        Glucose(data_dir=str(tmp_path)).clients()
