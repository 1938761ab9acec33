"""Means over clients and how sure they are."""

import math

import numpy as np
import pytest

from fedmaml.core.statistics import (
    _resampled_means,
    bootstrap_interval,
    diverged,
    hierarchical_interval,
    holm,
    mean_over_clients,
    mean_over_seeds,
    seeds_p_value,
    wilcoxon_p_value,
)


def test_interval_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400).tolist()
    low, high = bootstrap_interval(values)
    # mean -+ 1.96 sd / sqrt(400)
    half = 1.96 * np.std(values) / 20
    assert low == pytest.approx(np.mean(values) - half, abs=0.03)
    assert high == pytest.approx(np.mean(values) + half, abs=0.03)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    assert bootstrap_interval(values, 1) == bootstrap_interval(values, 1)


def test_undefined_values_are_left_out() -> None:
    assert bootstrap_interval([1.0, math.nan, 2.0, 4.0]) == bootstrap_interval([1.0, 2.0, 4.0])


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert bootstrap_interval(values) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("values", [[1.0, math.inf], [-math.inf, 1.0, 2.0]])
def test_a_diverged_client_leaves_the_mean_infinite_without_an_interval(values) -> None:
    assert bootstrap_interval(values) is None
    assert math.isinf(mean_over_clients(values))
    assert diverged([*values, math.nan]) == 1


def test_mean_over_clients_leaves_undefined_values_out() -> None:
    assert mean_over_clients([1.0, math.nan, 2.0]) == 1.5
    assert mean_over_clients([math.nan]) is None
    assert mean_over_clients([]) is None
    assert diverged([1.0, math.nan]) == 0


# --- over clients and seeds

WORLDS = [(1, 0.0), (2, 0.2), (3, 0.0), (5, 0.0), (5, 0.2), (5, 1.0), (10, 0.2)]
"""Seeds, and what a seed's clients share, in units of what each has for itself."""


def coverage(seeds: int, shared: float, repeats: int) -> float:
    """Return how often the interval holds the true mean 0; skewed values of 40 clients a seed."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(repeats):
        own = rng.exponential(1, (seeds, 40)) - 1
        low, high = hierarchical_interval(own + shared * rng.normal(0, 1, (seeds, 1)), 0, 999)
        hits += low <= 0 <= high
    return hits / repeats


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "shared"), WORLDS)
def test_interval_holds_the_truth_in_95_of_100_worlds(seeds: int, shared: float) -> None:
    # 1,000 repeats have a standard error of .007, so one of these worlds would miss by chance:
    # three skewed seeds have .944, with the bootstrap as with Student's t. Hence 4,000.
    assert 0.93 <= coverage(seeds, shared, 4000) <= 0.97


@pytest.mark.parametrize(
    ("seeds", "shared"),
    [(5, 0.2), *(pytest.param(*world, marks=pytest.mark.slow) for world in ((5, 0.0), (5, 1.0)))],
)
def test_interval_of_five_seeds_holds_the_truth_in_930_to_970_of_1000_worlds(
    seeds: int, shared: float
) -> None:
    assert 0.93 <= coverage(seeds, shared, 1000) <= 0.97


@pytest.mark.parametrize(("seeds", "shared"), [(1, 0.0), (5, 0.0), (5, 1.0)])
def test_interval_holds_the_truth_about_as_often_as_it_says(seeds: int, shared: float) -> None:
    # Binomial: .95 -+ 3 sqrt(.95 * .05 / 200) = .904 .. .996
    assert 0.904 <= coverage(seeds, shared, 200) <= 0.996


def test_plain_hierarchical_percentiles_would_not_do() -> None:
    # The reason for the calibration: A = 0, so the truth is E/(nS) = 1/200, and the resamples have
    # (S-1)/S E/(nS) + (n-1)/n E/(nS) = (.8 + .975)/200: 1.78 times as much.
    rng = np.random.default_rng(0)
    own = rng.normal(0, 1, (200, 5, 40))
    spread = [np.var(_resampled_means(list(groups), rng, 999)) for groups in own]
    assert np.mean(spread) == pytest.approx(1.775 / 200, rel=0.1)


def test_interval_has_the_width_of_students_t_over_the_seeds() -> None:
    groups = np.arange(5.0)[:, None] + np.linspace(-1, 1, 11)
    low, high = hierarchical_interval(groups)
    # means 0..4: sd sqrt(2.5), t(.975; 4) = 2.776
    assert high - low == pytest.approx(2 * 2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    assert (low + high) / 2 == pytest.approx(2, abs=0.1)


def test_interval_over_seeds_leaves_undefined_values_and_empty_seeds_out() -> None:
    groups = [[1.0, math.nan, 2.0], [math.nan], [3.0, 5.0, 4.0]]
    assert hierarchical_interval(groups) == hierarchical_interval([[1.0, 2.0], [3.0, 5.0, 4.0]])
    assert mean_over_seeds(groups) == 2.75
    assert hierarchical_interval([[1.0]]) is None
    assert hierarchical_interval([[1.0, math.inf], [1.0, 2.0]]) is None
    assert hierarchical_interval([[0.5, 0.5], [0.5, 0.5]]) == (0.5, 0.5)
    assert mean_over_seeds([[math.nan]]) is None


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and none below the one before: .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_seeds_p_value_is_the_t_test_on_their_means() -> None:
    groups = [[0.0, 2.0], [2.0, 4.0], [1.0, 3.0]]
    # means 1, 3, 2: t = 2 / (1 / sqrt 3) = 3.464; with 2 degrees p = 1 - t / sqrt(t^2 + 2) = .0742
    assert seeds_p_value(groups) == pytest.approx(1 - 3.4641 / math.sqrt(14), rel=1e-4)
    assert seeds_p_value(groups[:1]) is None
    assert seeds_p_value([[1.0], [1.0]]) == 0.0
    assert seeds_p_value([[0.0], [0.0]]) == 1.0
    assert seeds_p_value([[math.inf], [0.0]]) is None


def test_wilcoxon_by_hand() -> None:
    # Five positive differences: only 2 of the 2^5 sign patterns are as extreme.
    assert wilcoxon_p_value([[1.0, 2.0, 3.0], [4.0, 5.0]]) == pytest.approx(2 / 32)
    assert wilcoxon_p_value([[1.0, 2.0, 3.0], [4.0, math.inf]]) == pytest.approx(2 / 32)
    assert wilcoxon_p_value([[0.0, 0.0], [0.0]]) == 1.0
    assert wilcoxon_p_value([[math.nan]]) is None
