"""Figures by hand, and how often their intervals hold the truth."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t

from fedmaml.core import figures, metrics
from fedmaml.core.figures import Clients, Figure, clients_table
from fedmaml.core.metrics import Metric
from fedmaml.core.resampling import (
    RESAMPLES,
    Resampled,
    figure_interval,
    resample,
    why_no_interval,
    within_p_value,
)

SCORE = Metric("score", "1", "higher", 0.0, metrics.accuracy)
RETURNS = Metric("return", "1", "higher", 0.0, metrics.accuracy, tuple(map(str, range(240))))


def clients(values, groups=None, **columns) -> Clients:
    """Return clients with a score, a label "sex" and further columns."""
    values = np.asarray(values, float)
    labels = np.zeros(len(values), int) if groups is None else np.asarray(groups)
    names = {"sex": tuple("abcdefghijklmnopqrst"[: labels.max() + 1])}
    return Clients(np.arange(len(values)), {"score": values} | columns, {"sex": labels}, names, {})


# --- values


def test_a_table_of_columns_knows_cells_groups_and_stages() -> None:
    daily = Metric("daily", "1", "higher", 0.0, metrics.accuracy, ("mon", "tue"))
    columns = {
        "score:after": [0.5, math.nan], "score:before": [0.1, 0.2],
        "daily/mon:after": [1.0, 2.0], "daily/tue:after": [3.0, 4.0],
    }  # fmt: skip
    found = clients_table([7, 9], columns, [SCORE, daily], [{"sex": "f"}, {}])
    assert found.numbers.tolist() == [7, 9]
    assert found["score"][0] == 0.5
    assert found["daily"].tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert found["daily/tue"].tolist() == [3.0, 4.0]
    assert {name: each.numbers.tolist() for name, each in found.of("sex").items()} == {
        "f": [7], "": [9],
    }  # fmt: skip
    with pytest.raises(KeyError, match="no metric or cell 'daily/wed'"):
        found["daily/wed"]
    before = clients_table([7, 9], columns, [SCORE], [{}, {}], "before")
    assert before["score"].tolist() == [0.1, 0.2]


def test_worst_decile_is_the_mean_of_the_worst_tenth() -> None:
    values = np.arange(20.0)
    assert figures.worst_decile(SCORE)(clients(values)) == 0.5  # 0 and 1
    assert figures.worst_decile(replace(SCORE, better="lower"))(clients(values)) == 18.5
    assert figures.worst_decile(SCORE)(clients([math.nan, 3.0, 2.0])) == 2.0


def test_gap_and_worst_group_are_of_group_means() -> None:
    # Group a: 1, 3 (2); b: 5, undefined (5); c: 3 (3).
    found = clients([1, 3, 5, math.nan, 3], [0, 0, 1, 1, 2])
    assert figures.gap(SCORE, "sex")(found) == 3.0
    assert figures.worst_group(SCORE, "sex")(found) == 2.0
    assert figures.worst_group(replace(SCORE, better="lower"), "sex")(found) == 5.0


def test_equalised_odds_gap_is_the_larger_difference_of_two_rates() -> None:
    # a: 6 of 8 positives and 1 of 4 negatives; b: 3 of 6 and 1 of 2. Gaps .25 and .25 + .0: then
    # c: 2 of 4 (rate .5) and 4 of 5 (.8): .8 - .25 = .55.
    cells = np.array([[4, 1, 1, 2], [2, 0, 1, 1], [3, 1, 3, 1], [2, 4, 2, 1]], float)
    found = replace(
        clients([0, 0, 0, 0], [0, 0, 1, 2]),
        values={"confusion": cells},
        cells={"confusion": ("tp", "fp", "fn", "tn")},
    )
    assert figures.equalised_odds_gap("sex")(found) == pytest.approx(0.55)


def test_pooled_rmse_weighs_clients_by_examples() -> None:
    # (10 * 1 + 30 * 9) / 40 = 7
    found = clients([0, 0], rmse=np.array([1.0, 3.0]), examples=np.array([10.0, 30.0]))
    assert figures.pooled_rmse(metrics.RMSE)(found) == pytest.approx(math.sqrt(7))


def test_sharpe_ratio_is_of_the_clients_joint_returns() -> None:
    # Joint returns 1, 2, 3: mean 2, standard deviation 1; four periods a year: factor 2.
    returns = np.array([[0.0, 2.0, 4.0], [2.0, 2.0, 2.0]])
    found = Clients(np.arange(2), {"return": returns}, {}, {}, {"return": ("a", "b", "c")})
    assert figures.sharpe_ratio(RETURNS, periods=4, block=1)(found) == pytest.approx(4.0)


def test_retained_accuracy_is_a_ratio_of_means() -> None:
    found = clients([0, 0], now=np.array([0.4, 0.6]), then=np.array([0.7, 0.9]))
    assert figures.retained("now", "then")(found) == pytest.approx(0.5 / 0.8)


@pytest.mark.parametrize(
    "figure", [figures.mean(SCORE), figures.worst_decile(SCORE), figures.gap(SCORE, "sex")]
)
def test_what_no_client_defines_is_nan_and_what_diverged_is_infinite(figure: Figure) -> None:
    assert math.isnan(figure(clients([math.nan, math.nan])))
    assert figure_interval([resample(figure, clients([math.nan] * 5))]) is None
    diverged = resample(figure, clients([1.0, 2.0, 3.0, -math.inf], [0, 0, 1, 1]))
    assert not math.isfinite(diverged.value)
    assert figure_interval([diverged]) is None


# --- what is resampled


def seen(figure: Figure, found: Clients) -> list[tuple[float, ...]]:
    """Return the scores of every resample."""
    scores: list[tuple[float, ...]] = []

    def record(drawn: Clients) -> float:
        scores.append(tuple(np.ravel(drawn.values.get("return", drawn["score"]))))
        return 0.0

    resample(replace(figure, function=record), found, resamples=50)
    return scores[1:]


def test_clients_are_drawn_within_groups_so_that_none_is_missing() -> None:
    found = clients([1, 2, 3, 10], [0, 0, 0, 1])
    drawn = seen(Figure("f", "1", "higher", len, within="sex"), found)
    assert all(scores[3] == 10 and set(scores[:3]) <= {1, 2, 3} for scores in drawn)
    assert len(set(drawn)) > 10
    assert any(10 not in scores for scores in seen(Figure("f", "1", "higher", len), found))


def test_groups_are_drawn_whole() -> None:
    found = clients([1, 2, 10, 20, 100, 200], [0, 0, 1, 1, 2, 2])
    whole = {(1, 2), (10, 20), (100, 200)}
    for scores in seen(Figure("f", "1", "higher", len, resampled="sex"), found):
        assert {scores[i : i + 2] for i in (0, 2, 4)} <= whole


def test_cells_are_drawn_in_blocks_of_neighbours() -> None:
    found = replace(
        clients([0]), values={"score": np.zeros(1), "return": np.arange(6.0)[None]},
        cells={"return": tuple("abcdef")},
    )  # fmt: skip
    for cells in seen(Figure("f", "1", "higher", len, resampled="return", block=3), found):
        assert len(cells) == 6
        assert all((cells[i + 1] - cells[i]) % 6 == 1 for i in (0, 1, 3, 4))


@pytest.mark.parametrize(
    ("figure", "found", "units", "reason"),
    [
        (figures.mean(SCORE), clients([1, 2]), 2, "it rests on 2 clients, and 3 are needed"),
        (figures.worst_decile(SCORE), clients(range(29)), 2, "it rests on 2 clients, and 3"),
        (figures.worst_decile(SCORE), clients(range(30)), 3, ""),
        (figures.mean(SCORE, "sex"), clients(range(9), [0, 1, 1] * 3), 2, "2 units of 'sex'"),
        (figures.mean(SCORE, "sex"), clients(range(9), [0, 1, 2] * 3), 3, ""),
    ],
)
def test_too_few_units_have_no_interval_and_say_why(figure, found, units, reason) -> None:
    drawn = resample(figure, found, resamples=100)
    assert drawn.units == units
    assert reason in why_no_interval(figure, drawn.units)
    assert bool(reason) == (figure_interval([drawn]) is None)


# --- intervals


def test_a_mean_has_the_interval_of_students_t() -> None:
    values = np.random.default_rng(0).normal(size=50)
    low, high = figure_interval([resample(figures.mean(SCORE), clients(values))])
    half = t.ppf(0.975, 49) * values.std(ddof=1) / math.sqrt(50)
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)  # 999 draws: 2 % of a deviation
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.1 * half)


def test_a_paired_difference_is_as_sure_as_its_differences() -> None:
    # Scores vary by 1 from client to client; one strategy has .1 more everywhere.
    values = np.random.default_rng(0).normal(size=50)
    one, other = (resample(figures.mean(SCORE), clients(v), 3) for v in (values + 0.1, values))
    difference = one.minus(other)
    low, high = figure_interval([difference])
    assert (low, high) == pytest.approx((0.1, 0.1), abs=1e-9)
    assert within_p_value([difference]) == pytest.approx(0, abs=1e-9)
    assert within_p_value([one.minus(one)]) == 1.0


def test_p_value_of_what_varies_within_seeds_by_hand() -> None:
    # Errors of draws times sqrt(5 / 4): 2 each; of the mean over two seeds sqrt(2); t = 3 / 1.414
    # with 2 * 4 degrees.
    draws = np.resize([-1.0, 1.0], 1000) * 2 * math.sqrt(4 / 5) * math.sqrt(999 / 1000)
    found = [Resampled(value, value + draws, 5) for value in (2.0, 4.0)]
    assert within_p_value(found) == pytest.approx(2 * t.sf(3 / math.sqrt(2), 8), rel=1e-6)


def test_seeds_that_agree_do_not_make_an_interval_narrow() -> None:
    found = [resample(figures.mean(SCORE), clients([-1.0, 1.0] * 20), seed) for seed in range(3)]
    low, high = figure_interval(found)
    # Three equal means; a client's deviation is 1.0127: t(.975; 117) * 1.0127 / sqrt 120 = .183
    assert (high - low) / 2 == pytest.approx(0.183, rel=0.06)


def test_no_interval_reaches_below_the_least_value() -> None:
    figure = figures.gap(SCORE, "sex")
    values = np.random.default_rng(1).normal(size=40)
    drawn = resample(figure, clients(values, np.arange(40) % 2))
    assert figure_interval([drawn])[0] < 0
    assert figure_interval([drawn], least=figure.least)[0] == 0


# --- coverage: rng -> clients of one seed, figure, truth, seeds

Generator = Callable[[np.random.Generator], Clients]
GROUPS = np.arange(80) % 2


def grouped(gap: float, shared: float = 0.0) -> Generator:
    """Return clients of two groups whose means differ by 1 and by what a seed's training adds."""
    return lambda rng: clients(rng.normal(size=80) + GROUPS * (gap + shared * rng.normal()), GROUPS)


def clustered(rng: np.random.Generator) -> Clients:
    """Return 12 regions of 8 clients; half a deviation is the region's."""
    of_region = np.repeat(rng.normal(0, 0.5, 12), 8)
    return clients(of_region + rng.normal(size=96), np.repeat(np.arange(12), 8))


def series(rng: np.random.Generator) -> Clients:
    """Return 240 days of a return with autocorrelation .3, mean .2 and variance 1 / (1 - .09)."""
    noise = rng.normal(size=290)
    values = np.zeros(290)
    for day in range(1, 290):
        values[day] = 0.3 * values[day - 1] + noise[day]
    cells = {"return": RETURNS.cells}
    return Clients(np.arange(1), {"return": values[None, 50:] + 0.2}, {}, {}, cells)


SHARPE = figures.sharpe_ratio(RETURNS, periods=1, block=10)
CASES = {
    "skewed mean, 1 seed": (lambda r: clients(r.exponential(size=40)), figures.mean(SCORE), 1.0, 1),
    "mean, 3 seeds": (lambda r: clients(r.normal() * 0.3 + r.normal(size=40)),
                      figures.mean(SCORE), 0.0, 3),
    "mean, 5 seeds": (lambda r: clients(r.normal() * 0.3 + r.normal(size=40)),
                      figures.mean(SCORE), 0.0, 5),
    "groups, 1 seed": (grouped(1.0), figures.gap(SCORE, "sex"), 1.0, 1),
    "groups alike, 1 seed": (grouped(0.0), figures.gap(SCORE, "sex"), 0.0, 1),
    "groups, 5 seeds": (grouped(1.5, 0.3), figures.gap(SCORE, "sex"), 1.5, 5),
    "worst tenth, 1 seed": (lambda r: clients(r.normal(size=120)), figures.worst_decile(SCORE),
                            -norm.pdf(norm.ppf(0.1)) / 0.1, 1),
    "regions, 1 seed": (clustered, figures.mean(SCORE, "sex"), 0.0, 1),
    "blocks of days, 1 seed": (series, SHARPE, 0.2 * math.sqrt(1 - 0.09), 1),
    "blocks of days, 3 seeds": (series, SHARPE, 0.2 * math.sqrt(1 - 0.09), 3),
}  # fmt: skip


def coverage(case: str, repeats: int, draws: int) -> tuple[float, float]:
    """Return how often the interval holds the truth, and its mean width."""
    generate, figure, truth, seeds = CASES[case]
    rng = np.random.default_rng(5)
    hits, widths = 0, []
    for _ in range(repeats):
        found = [resample(figure, generate(rng), seed, draws) for seed in range(seeds)]
        low, high = figure_interval(found)
        hits += low <= truth <= high
        widths.append(high - low)
    return hits / repeats, float(np.mean(widths))


LONG = ("groups, 5 seeds", "blocks of days, 3 seeds")
"""Cases that take seconds."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_the_truth_in_93_to_97_of_100_worlds(case: str) -> None:
    # 1,000 repeats have a standard error of .007.
    found, _ = coverage(case, 1000, RESAMPLES)
    assert 0.93 - 0.007 <= found <= 0.97 + 0.007


@pytest.mark.parametrize("case", [case for case in CASES if case not in LONG])
def test_intervals_hold_the_truth_about_as_often_as_they_say(case: str) -> None:
    # .93, which the slow test holds them to, less 2.5 sqrt(.93 * .07 / 100) = .064
    assert coverage(case, 100, 199)[0] >= 0.866


def test_clients_of_a_region_are_not_taken_for_independent() -> None:
    # Variance of a mean of 12 regions of 8: (.25 + 1/8) / 12; of 96 clients alone 1.25 / 96: the
    # first interval is sqrt(2.4) = 1.55 times as wide, and t(.975; 11) / t(.975; 95) = 1.11 more.
    (_, regions) = coverage("regions, 1 seed", 40, 199)
    rng = np.random.default_rng(5)
    alone = []
    for _ in range(40):
        low, high = figure_interval([resample(figures.mean(SCORE), clustered(rng), 0, 199)])
        alone.append(high - low)
    assert regions / np.mean(alone) == pytest.approx(1.72, rel=0.12)


def test_a_stage_that_a_strategy_has_not_is_undefined() -> None:
    clients = clients_table(
        [4, 5], {"accuracy:after": [0.5, 1.0]}, [metrics.ACCURACY], [{}, {}], "before"
    )
    assert np.isnan(clients["accuracy"]).all()
    assert np.isnan(figures.worst_decile(metrics.ACCURACY)(clients))
