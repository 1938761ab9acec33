"""Robust rules where some devices are malicious; benchmarks/attacks.py has the whole grid."""

from functools import cache

import pytest

from benchmarks.attacks import accuracy

pytestmark = pytest.mark.slow

ROUNDS = 40


@cache
def without_attack(rule: str) -> float:
    return accuracy(rule, 1, "", ROUNDS, 1)


@pytest.mark.parametrize("attack", ["sign flip", "IPM"])
@pytest.mark.parametrize("rule", ["median", "multi-krum"])
def test_one_malicious_device_of_ten_costs_five_points_at_most(rule: str, attack: str) -> None:
    assert accuracy(rule, 1, attack, ROUNDS, 1) > without_attack(rule) - 5


def test_the_mean_has_no_defence() -> None:
    """So the attack is one: four devices that flip signs."""
    assert accuracy("mean", 4, "sign flip", ROUNDS, 1) < without_attack("mean") - 10
