"""Suffix rules and bias-variance against their closed forms."""

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.scenarios import BiasVariance, SuffixRules
from fedmaml.simulations.scenarios.bias_variance import coefficients, moment
from fedmaml.simulations.scenarios.suffix_rules import _common
from fedmaml.strategies import MetaSGD

BEST = {
    1: ((0.142857, 2.392857), (0.294118, 2.014706), (0.454545, 1.613636), (0.625, 1.1875)),
    2: ((0.135910, 2.336859), (0.286833, 1.853227), (0.448327, 1.335855), (0.620467, 0.839301)),
    5: ((0.104596, 2.314251), (0.237108, 1.747117), (0.390851, 1.110869), (0.565855, 0.582393)),
    10: ((0.069750, 2.311980), (0.182853, 1.718624), (0.318270, 1.025809), (0.487374, 0.505579)),
}
"""Steps -> best rate and expected error with 2, 5, 10 and 20 examples, computed independently."""
OF_FOMAML = {
    2: ((0.38368, 2.0093), (0.60753, 1.6501), (0.85371, 1.3056)),
    5: ((0.25192, 1.7513), (0.42823, 1.1390), (0.61660, 0.6074)),
    10: ((0.15608, 1.7243), (0.32770, 1.0281), (0.48300, 0.5057)),
}
"""Steps -> the rate that FOMAML would learn, and the error there, with 5, 10 and 20 examples."""

# --- bias and variance --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("power", "shots", "dimension", "expected"),
    [
        (1, 5, 3, Fraction(1)),
        (2, 5, 3, Fraction(9, 5)),
        (3, 5, 3, Fraction(25 + 9 + 45 + 15 + 9 + 4, 25)),
        (4, 5, 3, Fraction(1519, 125)),
        (6, 5, 3, Fraction(89901, 625)),
        (4, 1, 1, Fraction(105)),  # of a chi-square variable with one degree of freedom
    ],
)
def test_moments_of_the_wishart_matrix(
    power: int, shots: int, dimension: int, expected: Fraction
) -> None:
    assert moment(power, shots, dimension) == expected


@pytest.mark.parametrize("power", range(1, 13))
def test_of_one_example_or_one_dimension_moments_are_those_of_chi_squares(power: int) -> None:
    for count in (1, 4):
        assert moment(power, count, 1) == Fraction(rising(count, power), count**power)
        assert moment(power, 1, count) == rising(count + 2, power - 1)


def rising(first: int, factors: int) -> int:
    """Return first (first + 2) (first + 4) ..."""
    return math.prod(first + 2 * step for step in range(factors))


@pytest.mark.parametrize("power", range(1, 13))
def test_moments_are_dual(power: int) -> None:
    shots, dimension = 5, 3
    left = dimension * shots**power * moment(power, shots, dimension)
    assert left == shots * dimension**power * moment(power, dimension, shots)


def test_coefficients_are_the_known_fractions() -> None:
    rate = Fraction(1, 5)
    assert coefficients(5, 3, 1, rate) == (Fraction(84, 125), Fraction(4, 5), Fraction(3, 125))
    assert coefficients(5, 3, 2, rate) == (
        Fraction(40194, 78125),
        Fraction(84, 125),
        Fraction(5121, 78125),
    )
    assert coefficients(5, 3, 3, rate) == (
        Fraction(4103606, 9765625),
        Fraction(1818, 3125),
        Fraction(5353017, 48828125),
    )
    assert coefficients(5, 3, 5, rate) == (
        Fraction(1184979019214, 3814697265625),
        Fraction(902686, 1953125),
        Fraction(147532400841, 762939453125),
    )


@pytest.mark.parametrize(
    ("steps", "shots", "rate", "expected"),
    [
        (steps, shots, rate, error)
        for steps, at in BEST.items()
        for shots, (rate, error) in zip((2, 5, 10, 20), at, strict=True)
    ],
)
def test_the_expected_error_at_the_best_rate(
    steps: int, shots: int, rate: float, expected: float
) -> None:
    scenario = BiasVariance(shots=shots)
    found = scenario.expected_error(steps, rate)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found < scenario.expected_error(steps, rate * 1.05)
    assert found < scenario.expected_error(steps, rate * 0.95)


@pytest.mark.parametrize(("steps", "distance"), [(1, 0.0), (1, 10.0), (3, 0.0)])
def test_gradient_steps_from_any_start_have_the_expected_error(steps: int, distance: float) -> None:
    scenario, rate = BiasVariance(test_clients=20_000, queries=50), 0.2
    x, y, query_x, query_y = _arrays(scenario)
    start = scenario.mean + (distance / scenario.dimension) ** 0.5
    theta = _stepped(x, y, start, steps, rate)
    errors = (torch.einsum("cnd,cd->cn", query_x, theta) - query_y).square().mean(1)
    expected = scenario.expected_error(steps, rate, distance)
    assert float(errors.mean()) == pytest.approx(expected, rel=0.015)


@pytest.mark.parametrize("steps", [1, 3])
def test_bias_and_variance_of_one_task_are_those_of_the_coefficients(steps: int) -> None:
    """bias^2 = a1^2 |theta - w|^2,  variance = (b - a1^2) |theta - w|^2 + v s^2."""
    scenario, rate, offset = BiasVariance(test_clients=40_000, queries=1, spread=0.0), 0.2, 0.7
    x, y, _, _ = _arrays(scenario)
    rest = _stepped(x, y, scenario.mean + offset, steps, rate) - scenario.mean
    b, a1, v = map(float, coefficients(scenario.shots, scenario.dimension, steps, Fraction(rate)))
    square = scenario.dimension * offset**2
    torch.testing.assert_close(
        rest.mean(0), torch.full_like(rest[0], a1 * offset), rtol=0.02, atol=0
    )
    variance = (b - a1**2) * square + v * scenario.noise**2
    assert float(rest.var(0).sum()) == pytest.approx(variance, rel=0.015)


@pytest.mark.parametrize(
    ("steps", "shots", "rate", "error"),
    [
        (steps, shots, rate, error)
        for steps, at in OF_FOMAML.items()
        for shots, (rate, error) in zip((5, 10, 20), at, strict=True)
    ],
)
def test_the_rate_that_fomaml_would_learn(
    steps: int, shots: int, rate: float, error: float
) -> None:
    scenario = BiasVariance(shots=shots)
    assert _slope_of_fomaml(scenario, steps, rate - 1e-5) < 0
    assert _slope_of_fomaml(scenario, steps, rate + 1e-5) > 0
    assert scenario.expected_error(steps, rate) == pytest.approx(error, abs=6e-5)


@pytest.mark.parametrize("rate", [0.3, 0.60753, 0.8])
def test_the_slope_of_a_rate_by_first_order_is_that_of_sampled_clients(rate: float) -> None:
    """E (theta_K - w)' (theta_K - theta_0) = b D + v s^2 - a1 D, 0 at the rate of the table."""
    scenario = BiasVariance(test_clients=40_000, queries=1)
    x, y, _, _ = _arrays(scenario)
    own = seeding.normal(seeding.key(0, "bias_variance"), scenario.clients()["test"], 10, 1)[..., 0]
    moved = _stepped(x, y, scenario.mean, 2, rate) - scenario.mean
    slopes = ((moved - scenario.spread * own) * moved).sum(1)
    error = float(slopes.std()) / len(slopes) ** 0.5
    expected = _slope_of_fomaml(scenario, 2, rate)
    assert float(slopes.mean()) == pytest.approx(expected, abs=4 * error)


def _slope_of_fomaml(scenario: BiasVariance, steps: int, rate: float) -> float:
    """Return b D + v s^2 - a1 D."""
    b, a1, v = coefficients(scenario.shots, scenario.dimension, steps, Fraction(rate))
    return float(b - a1) * scenario.dimension * scenario.spread**2 + float(v) * scenario.noise**2


def _stepped(x: Tensor, y: Tensor, start: float, steps: int, rate: float) -> Tensor:
    """Return every client's weights after gradient steps on its support."""
    theta = torch.full(x[:, 0].shape, start, dtype=torch.float64)
    for _ in range(steps):
        residual = torch.einsum("cnd,cd->cn", x, theta) - y
        theta = theta - rate * torch.einsum("cnd,cn->cd", x, residual) / x.shape[1]
    return theta


def _arrays(scenario: BiasVariance) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    support, query = scenario.tasks("test", scenario.clients()["test"], 0, {})[0].tasks
    return support.x, support.y, query.x, query.y


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["maml", "fomaml"])
def test_training_ends_at_the_mean_of_the_clients(strategy: str, tmp_path: Path) -> None:
    execute(resolve({"scenario": "bias_variance", "strategy": strategy}), tmp_path / "run")
    theta = RunDirectory(tmp_path / "run").load_meta()["theta"]["head.weight"]
    assert float((theta - BiasVariance().mean).norm()) < 0.03


# --- suffix rules -------------------------------------------------------------------------------


def test_one_step_at_the_best_rate_is_the_posterior_mean_of_the_suffix() -> None:
    scenario = SuffixRules(shots=2)
    reference = next(each for each in scenario.references() if each.oracle)
    adapt = reference.fit(None)
    support, query = (_first(part) for part in scenario.tasks("test", [60], 0, {})[0].tasks)
    oracle = adapt(support)
    # At the true stem and the suffixes' mean, a step on b alone.
    zero = torch.zeros(1, scenario.dimension, dtype=torch.float64)
    stem = oracle(torch.eye(scenario.dimension, dtype=torch.float64)) - oracle(zero)
    _, mean = _common(scenario.seed, scenario.dimension)
    gradient = 2 / scenario.dimension * (support.x @ stem + mean - support.y).mean(0)
    stepped = query.x @ stem + mean - scenario.best_rate() * gradient
    torch.testing.assert_close(stepped, oracle(query.x), rtol=1e-9, atol=1e-9)


def _first(batch):
    return type(batch)(batch.x[0], batch.y[0])


@pytest.mark.parametrize(("shots", "rate"), [(1, 2.963), (2, 2.981)])
def test_the_mean_update_of_meta_sgd_vanishes_at_the_best_rate_of_the_suffix(
    shots: int, rate: float
) -> None:
    scenario = SuffixRules(shots=shots, test_clients=5000)
    assert scenario.best_rate() == pytest.approx(rate, abs=5e-4)
    low, high = (_mean_slope(scenario, tried) for tried in (0.5 * rate, 1.5 * rate))
    assert low < 0 < high
    assert 0.5 + low / (low - high) == pytest.approx(1, abs=0.005)  # linear in the rate


def _mean_slope(scenario: SuffixRules, rate: float) -> float:
    """Return what Meta-SGD sends for the rate of b, from the common stem and the suffixes' mean."""
    strategy = MetaSGD(inner=GradientSteps(steps=1))
    start = strategy.build(scenario.problem().in_dtype("float64"), seeding.generator(0))
    stem, mean = _common(scenario.seed, scenario.dimension)
    meta = {
        "theta": {"head.weight": stem, "head.bias": mean},
        "alpha": {"head.weight": torch.zeros_like(stem), "head.bias": torch.full_like(mean, rate)},
    }
    (group,) = scenario.tasks("test", scenario.clients()["test"], 0, {})
    sent = vmap(lambda task: strategy.client_update(start.learner, meta, {}, task).update)
    return float(sent(group.tasks)["alpha"]["head.bias"].mean())


@pytest.mark.slow
@pytest.mark.parametrize(("shots", "rate"), [(1, 2.963), (2, 2.981)])
def test_meta_sgd_learns_the_rates_of_a_bayesian_and_maml_cannot(
    shots: int, rate: float, tmp_path: Path
) -> None:
    errors = {}
    for strategy in ("meta_sgd", "maml"):
        layer = {"scenario": "suffix_rules", "strategy": strategy, "task.shots": shots}
        errors[strategy] = execute(resolve(layer), tmp_path / strategy)["metric"]["after"]
    assert errors["meta_sgd"] < 0.035
    assert errors["maml"] > 10 * errors["meta_sgd"]
    alpha = RunDirectory(tmp_path / "meta_sgd").load_meta()["alpha"]
    assert float(alpha["head.bias"].mean()) == pytest.approx(rate, rel=0.01)
    assert float(alpha["head.weight"].abs().mean()) < 0.04
