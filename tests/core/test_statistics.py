"""Means over clients and how sure they are."""

import math

import numpy as np
import pytest
from scipy.stats import chi2, norm, wilcoxon

from fedmaml.core.statistics import (
    Estimates,
    _draws,
    _resampled_means,
    bootstrap_interval,
    calibrated,
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


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, 2.0], [1.0, 2.0, math.nan]])
def test_fewer_than_three_values_have_no_interval(values: list[float]) -> None:
    assert bootstrap_interval(values) is None
    assert hierarchical_interval([values] * 2) is None


def test_few_clients_of_enough_seeds_have_the_interval_of_the_seeds_means() -> None:
    groups = [[1.0, 3.0], [1.0], [4.0, 2.0], [math.nan]]
    assert hierarchical_interval(groups) == bootstrap_interval([2.0, 1.0, 3.0])
    assert hierarchical_interval([[1.0], [2.0, math.nan], [math.inf]]) is None


def test_few_values_have_the_width_of_students_t() -> None:
    # Mean 2, standard deviation 1, t(.975; 2) = 4.303; percentiles alone would reach from 1 to 3.
    low, high = bootstrap_interval([1.0, 2.0, 3.0])
    assert high - low == pytest.approx(2 * 4.303 / math.sqrt(3), rel=1e-3)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("values", [[1.0, 2.0, math.inf], [-math.inf, 1.0, 2.0]])
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

WORLDS = [(1, 0.0), (3, 0.0), (3, 0.2), (3, 1.0), (5, 0.0), (5, 0.2), (5, 1.0), (10, 0.2)]
"""Seeds, and what a seed's clients share, in units of what each has for itself."""


def coverage(seeds: int, shared: float, repeats: int, clients: int = 40) -> float:
    """Return how often the interval holds the true mean 0; skewed values of 40 clients a seed."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(repeats):
        own = rng.exponential(1, (seeds, clients)) - 1
        groups = own + shared * rng.normal(0, 1, (seeds, 1))
        low, high = hierarchical_interval(groups, 0, 999)
        within = math.sqrt(np.mean(np.var(groups, axis=1, ddof=1)) / groups.size)
        assert high - low >= 2 * 1.95 * within  # never narrower than the clients alone imply
        hits += low <= 0 <= high
    return hits / repeats


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "shared"), WORLDS)
def test_interval_holds_the_truth_in_95_of_100_worlds(seeds: int, shared: float) -> None:
    assert 0.93 <= coverage(seeds, shared, 4000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("shared", "most"), [(0.0, 0.99), (0.2, 0.97), (1.0, 0.97)])
def test_two_seeds_hold_the_truth_as_often_as_is_possible(shared: float, most: float) -> None:
    # Where seeds share nothing the clients' width would do, but two means cannot show that.
    assert 0.93 <= coverage(2, shared, 4000) <= most


@pytest.mark.parametrize(("seeds", "shared"), WORLDS)
def test_interval_holds_the_truth_about_as_often_as_it_says(seeds: int, shared: float) -> None:
    # Binomial: .95 -+ .02, which the slow test holds it to, and 2 sqrt(.95 * .05 / 300) = .025.
    assert 0.905 <= coverage(seeds, shared, 300) <= 0.995


@pytest.mark.parametrize(
    ("seeds", "least", "most"),
    [(2, 0.94, 0.987), (3, 0.929, 0.971), (5, 0.943, 0.971), (10, 0.946, 0.968)],
)
def test_coverage_calculated_for_normal_values_and_many_clients(seeds, least, most) -> None:
    # In units of the clients' standard error of the mean over seeds: the mean is sqrt(1 + a) N, the
    # variance between seeds (1 + a) C, C = chi-square of S - 1 degrees over S - 1; a is what seeds
    # share. Half the width as `calibrated` gives it for clients without end; coverage by quadrature
    # over the quantiles of C.
    quantiles = chi2.ppf((np.arange(300) + 0.5) / 300, seeds - 1) / (seeds - 1)
    everywhere = []
    for shared in (0, 0.25, 0.5, 1, 2, 4, 8, 20, 100):
        widths = [
            calibrated(
                Estimates(
                    math.sqrt((1 + shared) * square) * unit_variance(seeds),
                    np.ones(seeds),
                    np.full(seeds, 10**7),
                )
            )
            for square in quantiles
        ]
        scaled = np.array(widths) * math.sqrt(seeds) / math.sqrt(1 + shared)
        everywhere.append(np.mean(1 - 2 * norm.sf(scaled)))
    assert least <= min(everywhere)
    assert max(everywhere) <= most


def unit_variance(seeds: int) -> np.ndarray:
    """Return values with the sample variance 1."""
    values = np.arange(float(seeds))
    return values / values.std(ddof=1)


def test_seeds_that_agree_by_chance_do_not_make_the_interval_narrow() -> None:
    # Three seeds of 40 clients whose means are .0658, .0675, .0675; each has a standard error of
    # .0122 (.077 / sqrt 40). The clients' width: 1.98 * .0122 / sqrt 3 = .0139; Student's t over
    # the seeds would have given 4.303 * .00098 / sqrt 3 = .0024.
    noise = np.resize([-0.077, 0.077], 40) * math.sqrt(39 / 40)
    groups = [mean + noise for mean in (0.0658, 0.0675, 0.0675)]
    low, high = hierarchical_interval(groups)
    assert (high - low) / 2 == pytest.approx(0.0139, abs=2e-4)
    assert low == pytest.approx(0.0669 - 0.0139, abs=1e-3)


def test_a_seed_with_one_client_lends_the_spread_of_the_others() -> None:
    # 1 and 3 differ less than clients do: s^2 = 100 in the second seed, mean variance 100/3 of a
    # seed, over 2 seeds; t(.975; 2) = 4.303.
    low, high = hierarchical_interval([[1.0], [-7.0, 3.0, 13.0]])
    assert high - low == pytest.approx(2 * 4.303 * math.sqrt(100 / 3 / 2), rel=1e-3)


def test_plain_hierarchical_percentiles_would_not_do() -> None:
    # The reason for the calibration: A = 0, so the truth is E/(nS) = 1/200, and the resamples have
    # (S-1)/S E/(nS) + (n-1)/n E/(nS) = (.8 + .975)/200: 1.78 times as much.
    own = np.random.default_rng(0).normal(0, 1, (200, 5, 40))
    spread = [np.var(_resampled_means(list(groups), seed, 999)) for seed, groups in enumerate(own)]
    assert np.mean(spread) == pytest.approx(1.775 / 200, rel=0.1)


def test_kept_draws_are_those_that_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [[1.0, 2.0, 7.0, -3.0], [4.0, 0.5, 3.0]]
    kept = hierarchical_interval(groups)
    monkeypatch.setattr("fedmaml.core.statistics._KEPT", 0)
    assert hierarchical_interval(groups) == kept
    chosen, total = np.random.default_rng(0).integers(2, size=(9999, 2, 1)), 0
    for counts in _draws((4, 3), 0, 9999):
        assert (
            counts.sum(1) == np.where(chosen[total : total + len(counts)], 3, 4).sum((1, 2))
        ).all()
        total += len(counts)
    assert total == 9999


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
    assert hierarchical_interval([[1.0, 2.0, math.inf], [1.0, 2.0, 3.0]]) is None
    assert hierarchical_interval([[0.5] * 3, [0.5] * 3]) == (0.5, 0.5)
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


@pytest.mark.parametrize(
    ("count", "decimals"), [(6, 0), (9, 1), (12, 3), (30, 3), (50, 6), (80, 1)]
)
def test_wilcoxon_agrees_with_scipy(count: int, decimals: int) -> None:
    """Few decimals make ties and zeros; scipy enumerates them up to 13 pairs."""
    rng = np.random.default_rng(count)
    values = np.round(rng.normal(0.3, 1, count), decimals)
    ties = len(np.unique(np.abs(values))) < count or not values.all()
    assert not ties or count <= 13 or count > 50
    expected = wilcoxon(values, zero_method="pratt").pvalue
    assert wilcoxon_p_value([values[: count // 2], values[count // 2 :]]) == pytest.approx(expected)
