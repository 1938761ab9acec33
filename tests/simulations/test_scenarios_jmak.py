"""JMAK: what the formula knows exactly, the references' bands, and measured runs."""

import gzip
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import grad

from fedmaml.core import seeding
from fedmaml.core.errors import DataError
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import make_learner
from fedmaml.core.tasks import Batch, Task, joined, task_at
from fedmaml.simulations.datasets import thermal_kinetics
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.references import archive, curves
from fedmaml.simulations.scenarios import Jmak
from fedmaml.simulations.scenarios.jmak import GRID
from fedmaml.simulations.systems.kinetics import FAMILIES, NOISE, oracle, simulated

MEAN = torch.tensor([0.0, 2.5], dtype=torch.float64)
TIMES = torch.tensor([0.2, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)


def noiseless(phi: torch.Tensor, times: torch.Tensor = TIMES) -> Batch:
    return Batch(times[:, None], simulated(phi, times))


def adapted(start: torch.Tensor, support: Batch, steps: int) -> torch.Tensor:
    """Return (log k, n) after gradient steps of the scenario's own network and loss."""
    learner, _ = make_learner(Jmak().problem().in_dtype("float64"), seeding.generator(0))
    inner = GradientSteps(lr=1.0, steps=steps)
    return inner.run(learner.loss, {"phi": start}, support)["phi"]


@pytest.mark.parametrize("steps", [1, 5, 200])
def test_another_unit_of_time_shifts_log_k_alone(steps: int) -> None:
    truth, start = torch.tensor([0.4, 2.0]).double(), torch.tensor([0.3, 1.5]).double()
    y = noiseless(truth).y + 0.05 * torch.sin(7 * TIMES)
    scale = 60.0
    in_minutes = adapted(start, Batch(TIMES[:, None], y), steps)
    shift = torch.tensor([-log(scale), 0.0], dtype=torch.float64)
    in_seconds = adapted(start + shift, Batch(scale * TIMES[:, None], y), steps)
    torch.testing.assert_close(in_seconds, in_minutes + shift, rtol=0, atol=1e-12)


def test_the_truth_without_noise_is_a_fixed_point_of_adaptation() -> None:
    truth = torch.tensor([0.4, 2.0]).double()
    assert torch.equal(adapted(truth, noiseless(truth), 50), truth)


def test_two_points_without_noise_give_rate_and_exponent() -> None:
    truth = torch.tensor([-0.3, 3.1]).double()
    support = noiseless(truth, torch.tensor([0.4, 0.9]).double())
    line = torch.log(-torch.log1p(-support.y))  # ln(-ln(1 - X)) = n ln t + n ln k
    t = support.x[:, 0].log()
    exponent = (line[1] - line[0]) / (t[1] - t[0])
    by_formula = torch.stack([line[0] / exponent - t[0], exponent])
    torch.testing.assert_close(by_formula, truth, rtol=1e-12, atol=1e-12)
    found = FAMILIES["simulated"].fitted(support)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-6)


def test_the_supports_hessian_hardly_sees_the_exponent() -> None:
    times = torch.linspace(0.05, 1, 2000, dtype=torch.float64)

    def loss(phi: torch.Tensor) -> torch.Tensor:
        return (simulated(phi, times) - simulated(MEAN, times)).square().mean()

    expected = torch.tensor([[0.594, -0.059], [-0.059, 0.0103]]).double()
    rows = [grad(lambda phi, row=row: grad(loss)(phi)[row])(MEAN) for row in (0, 1)]
    found = torch.stack(rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
    assert torch.linalg.eigvalsh(found).tolist() == pytest.approx([0.0044, 0.600], abs=2e-3)


def test_a_finished_curve_has_no_gradient_that_is_not_finite() -> None:
    late = torch.tensor([500.0]).double()
    slope = grad(lambda phi: simulated(phi, late).sum())(torch.tensor([4.0, 8.0]).double())
    assert slope.tolist() == [0, 0]


def test_the_beginning_is_measured_with_noise_and_the_whole_curve_is_asked_for_without() -> None:
    scenario = Jmak()
    clients = scenario.clients()["test"]
    ((_, tasks),) = scenario.tasks("test", clients, 1, {})
    phi, (support, query) = scenario.phi(clients), tasks
    assert 0.05 <= float(support.x.min()) < float(support.x.max()) <= 1
    assert float(query.x.max()) == 4
    rest = torch.stack([
        y - simulated(own, x[:, 0]) for own, x, y in zip(phi, support.x, support.y, strict=True)
    ])  # fmt: skip
    count = rest.numel()
    assert float(rest.mean()) == pytest.approx(0, abs=4 * NOISE / count**0.5)
    assert float(rest.std()) == pytest.approx(NOISE, rel=4 / (2 * count) ** 0.5)
    for own, x, y in zip(phi, query.x, query.y, strict=True):
        torch.testing.assert_close(y, simulated(own, x[:, 0]), rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """Mean error of the references' curves over 80 test clients."""
    scenario = Jmak()
    tested = tasks_of(scenario, "test", 80)
    training = tasks_of(scenario, "train", 100)
    found = {}
    for reference in (*scenario.references(), oracle()):
        clients = TrainingClients(
            "", reference.federated, {}, lambda: [joined(task) for task in training]
        )
        adapt = reference.fit(clients, **reference.grid[0])
        found[reference.name] = float(np.mean([error(adapt, task) for task in tested]))
    return found


def tasks_of(scenario: Jmak, split: str, count: int) -> list[Task]:
    group = scenario.tasks(split, scenario.clients()[split][:count], 1, {})[0].tasks
    return [task_at(group, row) for row in range(count)]


def error(adapt, task: Task) -> float:
    rest = adapt(task.support)(task.query.x)[:, 0] - task.query.y
    return float(rest.square().mean().sqrt())


def test_a_fitted_prior_nearly_knows_the_distribution(errors) -> None:
    assert errors["oracle"] < errors["hierarchical Bayes"] < errors["oracle"] + 0.002
    assert abs(errors["MAP"] - errors["hierarchical Bayes"]) < 0.002
    assert errors["hierarchical Bayes"] < errors["likely training curves"]
    assert 0.02 < errors["MAP"] < 0.035
    assert errors["MAP"] + 0.005 < errors["nonlinear least squares"] < 0.06
    assert 0.13 < errors["prior mean"] < 0.17


def test_the_prior_of_clean_fits_is_their_mean_and_covariance() -> None:
    family = FAMILIES["simulated"]
    phi = torch.tensor([[0.1, 2.0], [-0.2, 3.0], [0.3, 2.5]]).double()
    times = torch.linspace(0.1, 3, 30).double()
    clients = TrainingClients("", True, {}, lambda: [noiseless(row, times) for row in phi])
    prior = curves.prior_of(family, clients)
    torch.testing.assert_close(prior.mean, phi.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prior.spread, phi.T.cov(correction=0), rtol=1e-3, atol=1e-4)
    assert float(prior.noise) < 1e-9


def test_the_posterior_mode_lies_between_prior_and_fit() -> None:
    family, truth = FAMILIES["simulated"], torch.tensor([0.4, 2.0]).double()
    support = noiseless(truth)
    for noise, expected in ((1e-6, truth), (1e6, MEAN)):
        spread = torch.diag(torch.tensor([0.25, 0.36]).double())
        prior = curves.Prior(MEAN, spread, torch.tensor(noise**2).double())
        found = family.fitted(support, prior)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# --- curves at common points --------------------------------------------------------------------


def archive_clients(federated: bool = True) -> TrainingClients:
    generator = torch.Generator().manual_seed(0)
    examples = [
        Batch(GRID[:, None], torch.rand(40, generator=generator, dtype=torch.float64))
        for _ in range(60)
    ]
    return TrainingClients("", federated, {}, lambda: examples)


def test_all_training_curves_together_are_their_mean() -> None:
    clients = archive_clients(federated=False)
    support = Batch(GRID[:3, None], torch.zeros(3).double())
    nearest = archive.nearest_curves(GRID, (60,)).fit(clients, count=60)(support)
    mean = archive.mean_of_curves(GRID).fit(clients)(support)
    torch.testing.assert_close(nearest(GRID[:, None]), mean(GRID[:, None]))
    own = clients.examples()[7]
    seen = Batch(own.x[[1, 5, 9]], own.y[[1, 5, 9]])
    found = archive.nearest_curves(GRID, (1,)).fit(clients, count=1)(seen)
    torch.testing.assert_close(found(GRID[:, None])[:, 0], own.y)


def test_kriging_ends_at_the_mean_curve_or_at_the_measured_points() -> None:
    clients = archive_clients()
    support = Batch(GRID[[2, 20], None], torch.tensor([0.9, 0.1]).double())
    mean = archive.mean_of_curves(GRID).fit(clients)(support)(GRID[:, None])
    far, near = (archive.kriging(GRID, ()).fit(clients, noise=noise) for noise in (1e6, 1e-6))
    torch.testing.assert_close(far(support)(GRID[:, None]), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(near(support)(support.x)[:, 0], support.y, rtol=0, atol=1e-6)


def test_interpolation_is_linear_and_constant_beyond_the_ends() -> None:
    points = torch.tensor([1.0, 2.0, 4.0]).double()
    weights = archive.interpolation(points, torch.tensor([0.0, 1.5, 2.0, 3.0, 9.0]).double())
    values = torch.tensor([10.0, 20.0, 40.0]).double()
    assert (weights @ values).tolist() == [10, 15, 20, 30, 40]


# --- measured -----------------------------------------------------------------------------------


def test_no_laboratory_is_in_two_splits(data_dir: Path) -> None:
    scenario = Jmak(data="measured", data_dir=str(data_dir))
    clients = scenario.clients()
    assert sum(map(len, clients.values())) == len(thermal_kinetics.load(str(data_dir))) == 195
    splits = [{scenario.groups(client)["laboratory"] for client in clients[s]} for s in clients]
    assert len(set.union(*splits)) == sum(map(len, splits)) == 25


def test_runs_are_conversions_of_rising_temperature(data_dir: Path) -> None:
    for run in thermal_kinetics.load(str(data_dir)):
        assert (np.diff(run.temperature) > 0).all()
        assert run.at(np.array([500.0]))[0] == pytest.approx(0, abs=1e-9)
        assert run.temperature[0] <= 480
        assert run.temperature[-1] >= 760


def test_a_damaged_file_of_runs_is_named(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thermal_kinetics").mkdir()
    content = (data_dir / "thermal_kinetics" / "runs.csv").read_bytes()
    (tmp_path / "thermal_kinetics" / "runs.csv").write_bytes(content.replace(b"lab", b"site"))
    with pytest.raises(DataError, match=r"runs\.csv is not the original"):
        Jmak(data="measured", data_dir=str(tmp_path)).clients()
    with pytest.raises(DataError, match=r"no file .*runs\.csv"):
        Jmak(data="measured", data_dir=str(tmp_path / "elsewhere")).clients()


def test_measured_bainite_follows_the_formula(data_dir: Path) -> None:
    """Two isothermal curves, which end at .665 and .698, so the plateau is a parameter."""
    file = data_dir / "phase_transformation" / "bainite_isothermal_400C.csv.gz"
    if not file.exists():
        pytest.skip("no measured transformation")
    with gzip.open(file, "rt") as lines:
        rows = [line.split(",") for line in lines][1:]
    for name, end in (("10um", 0.665), ("15um", 0.698)):
        own = torch.tensor(
            [[float(t), float(x)] for curve, t, x in rows if curve.endswith(name)]
        ).double()
        own = own[own[:, 0] > 0][::20]
        own[:, 0] *= 13 / own[:, 0].median()
        found = FAMILIES["measured"].fitted(Batch(own[:, :1], own[:, 1]))
        rest = FAMILIES["measured"].function(found, own[:, 0]) - own[:, 1]
        assert float(rest.square().mean().sqrt()) < NOISE
        assert float(torch.sigmoid(2 * found[0])) == pytest.approx(end, abs=0.03)
