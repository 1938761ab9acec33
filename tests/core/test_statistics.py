"""Means over clients and how sure they are."""

import math

import numpy as np
import pytest

from fedmaml.core.statistics import bootstrap_interval, diverged, mean_over_clients


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
