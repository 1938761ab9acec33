"""What may be concluded: every condition by itself, with numbers anyone can check."""

import math

import pytest

from fedmaml.comparison.contrasts import contrast
from fedmaml.comparison.verdicts import Metric, evaluate

ACCURACY = Metric("accuracy", "1", "higher")
SPREAD = 0.39
"""Three seeds' means are m (1 - SPREAD), m and m (1 + SPREAD)."""
P_SEEDS = 1 - math.sqrt(3) / SPREAD / math.sqrt(2 + 3 / SPREAD**2)
"""t = sqrt(3) / SPREAD, whatever m is; two degrees of freedom: p = 1 - t / sqrt(2 + t^2)."""


def three_seeds(pattern: list[float], spread: float = SPREAD) -> list[dict[int, float]]:
    """Return values whose mean over the clients is m, m (1 - spread) and m (1 + spread)."""
    shift = spread * sum(pattern) / len(pattern)
    return [{i: value + k * shift for i, value in enumerate(pattern)} for k in (0, -1, 1)]


NOTHING_GAINED = three_seeds([0.0] * 10)


def test_an_interval_that_holds_0_is_no_difference_whatever_the_p_values() -> None:
    # Nine of ten clients gain .164, one loses .276: means of resamples reach further down than up.
    # Seeds' means have the variance (.402 * .12)^2 = .00233, which is more than the .00194 of their
    # clients' noise (.44^2 / 100), so that the width is that of Student's t over seeds.
    values = {"fedavg": NOTHING_GAINED, "maml": three_seeds([0.164] * 9 + [-0.276], 0.402)}
    row = evaluate(ACCURACY, dict.fromkeys(values, 1), values, values)[1]
    t = math.sqrt(3) / 0.402
    assert row.p_seeds == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert row.p_clients < 0.01
    assert row.p_holm == row.p_seeds < 0.05
    assert row.difference == pytest.approx(0.12)
    low, high = row.difference_ci95
    assert low < 0 < high
    assert row.verdict == "not distinguishable"


def test_rows_against_the_reference_are_corrected_for_how_many_there_are() -> None:
    # By itself each is significant (.047); the smallest of three p-values counts thrice (.141).
    gains = {name: three_seeds([gain] * 10) for name, gain in (("a", 1), ("b", 2), ("c", 4))}
    alone = {"fedavg": NOTHING_GAINED, "a": gains["a"]}
    _, row = evaluate(ACCURACY, dict.fromkeys(alone, 1), alone, alone)
    assert row.p_holm == pytest.approx(P_SEEDS)
    assert row.verdict == "better"
    values = {"fedavg": NOTHING_GAINED, **gains}
    for row in evaluate(ACCURACY, dict.fromkeys(values, 1), values, values)[1:]:
        assert row.p_seeds == pytest.approx(P_SEEDS)
        assert row.p_holm == pytest.approx(3 * P_SEEDS)
        assert row.verdict == "not distinguishable"
        assert "Holm p .141" in row.sentence


def test_values_are_paired_within_their_seed_and_client() -> None:
    # The same gain of a quarter at every client of every seed, though clients and seeds differ by
    # far more; whatever else is paired leaves a spread. The order of the rows says nothing.
    order = (3, 0, 5, 1, 4, 2)
    reference = [{client: float(7 * seed + client**2) for client in order} for seed in range(3)]
    values = [{client: each[client] + 0.25 for client in sorted(each)} for each in reference]
    del values[0][1], reference[1][4]  # only clients that both know are paired
    found = contrast(values, reference)
    assert found.mean == 0.25
    assert found.interval == (0.25, 0.25)
    assert found.p_seeds == 0
