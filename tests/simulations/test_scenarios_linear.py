"""Suffix rules and bias-variance against their closed forms."""

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.scenarios import BiasVariance, SuffixRules
from fedmaml.simulations.scenarios.bias_variance import coefficients, moment

BEST = {
    1: ((0.142857, 2.392857), (0.294118, 2.014706), (0.454545, 1.613636), (0.625, 1.1875)),
    2: ((0.135910, 2.336859), (0.286833, 1.853227), (0.448327, 1.335855), (0.620467, 0.839301)),
    5: ((0.104596, 2.314251), (0.237108, 1.747117), (0.390851, 1.110869), (0.565855, 0.582393)),
    10: ((0.069750, 2.311980), (0.182853, 1.718624), (0.318270, 1.025809), (0.487374, 0.505579)),
}
"""Steps -> best rate and expected error with 2, 5, 10 and 20 examples, computed independently."""

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
    theta = torch.full((len(x), scenario.dimension), start, dtype=torch.float64)
    for _ in range(steps):
        residual = torch.einsum("cnd,cd->cn", x, theta) - y
        theta = theta - rate * torch.einsum("cnd,cn->cd", x, residual) / scenario.shots
    errors = (torch.einsum("cnd,cd->cn", query_x, theta) - query_y).square().mean(1)
    expected = scenario.expected_error(steps, rate, distance)
    assert float(errors.mean()) == pytest.approx(expected, rel=0.015)


def _arrays(scenario: BiasVariance) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    support, query = scenario.tasks("test", scenario.clients()["test"], 0, {})[0].tasks
    return support.x, support.y, query.x, query.y


@pytest.mark.slow
def test_maml_finds_the_mean_of_the_clients(tmp_path: Path) -> None:
    execute(resolve({"scenario": "bias_variance", "strategy": "maml"}), tmp_path / "run")
    theta = RunDirectory(tmp_path / "run").load_meta()["theta"]["head.weight"]
    assert float((theta - BiasVariance().mean).norm()) < 0.1


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
    mean = _mean_of_suffixes(scenario)
    gradient = 2 / scenario.dimension * (support.x @ stem + mean - support.y).mean(0)
    stepped = query.x @ stem + mean - scenario.best_rate() * gradient
    torch.testing.assert_close(stepped, oracle(query.x), rtol=1e-9, atol=1e-9)
    assert SuffixRules(shots=1).best_rate() == pytest.approx(2.963, abs=5e-4)


def _first(batch):
    return type(batch)(batch.x[0], batch.y[0])


def _mean_of_suffixes(scenario: SuffixRules) -> Tensor:
    key = seeding.key(scenario.seed, "suffix_rules", "common")
    return seeding.normal(key, [0], scenario.dimension + 1, scenario.dimension)[0, -1]


@pytest.mark.slow
def test_meta_sgd_learns_the_rates_of_a_bayesian_and_maml_cannot(tmp_path: Path) -> None:
    errors = {}
    for strategy in ("meta_sgd", "maml"):
        config = resolve({"scenario": "suffix_rules", "strategy": strategy})
        errors[strategy] = execute(config, tmp_path / strategy)["metric"]["after"]
    assert errors["meta_sgd"] < 0.035
    assert errors["maml"] > 10 * errors["meta_sgd"]
    alpha = RunDirectory(tmp_path / "meta_sgd").load_meta()["alpha"]
    assert float(alpha["head.bias"].mean()) == pytest.approx(SuffixRules().best_rate(), rel=0.02)
    assert float(alpha["head.weight"].abs().mean()) < 0.15
