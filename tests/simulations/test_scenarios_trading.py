"""Trading: nothing of tomorrow enters a position, and controls find what is there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedmaml.config import resolve
from fedmaml.core.errors import DataError
from fedmaml.core.figures import clients_table
from fedmaml.core.tasks import task_at
from fedmaml.running import execute
from fedmaml.simulations.datasets import sp500
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.scenarios import Trading
from fedmaml.simulations.scenarios.trading import ALARM, sharpe
from fedmaml.simulations.systems import shares


@pytest.fixture
def scenario(data_dir: Path) -> Trading:
    return Trading(data_dir=str(data_dir))


def ready(client: int, scenario: Trading):
    return task_at(scenario.tasks("test", [client], 1, {})[0].tasks, 0)


def test_prices_are_those_of_the_companies_that_have_them_all(data_dir: Path) -> None:
    found = sp500.load(str(data_dir))
    assert found.close.shape == (shares.SHARES, shares.DAYS)
    assert np.isfinite(found.close).all()
    assert found.dates[80] == np.datetime64("2013-06-05")
    assert found.dates[754] == np.datetime64("2016-02-08")


def test_missing_prices_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sp500_ohlc\.npz"):
        sp500.load(str(tmp_path))


def test_no_price_of_a_later_day_changes_a_position() -> None:
    """Returns of day 900 on are others; positions of the days before are the same bits."""
    returns = shares._returns("positive", "", 0)
    changed = returns.clone()
    changed[:, 900:] = -2 * changed[:, 900:].flip(1)
    one, other = shares.panel_of(returns), shares.panel_of(changed)
    for name in ("features", "scale"):
        before, after = getattr(one, name), getattr(other, name)
        assert torch.equal(before[:, :900], after[:, :900])
        assert not torch.equal(before[:, 900:], after[:, 900:])
    assert torch.equal(one.later[:, :899], other.later[:, :899])  # day 899 earns what day 900 does
    leaking = shares.panel_of(returns, leak=True), shares.panel_of(changed, leak=True)
    assert not torch.equal(leaking[0].features[:, 899], leaking[1].features[:, 899])


def test_the_support_ends_where_the_query_begins() -> None:
    scenario = Trading(data="positive")
    client = scenario.clients()["test"][7]  # the eighth window of the first share
    data = shares.panel("positive", 0, "", 0)
    row, today = shares.order_of(0)[300], 754 + 7 * 20
    task = ready(client, scenario)
    assert task.query.y.shape == (1, 21)
    assert task.support.y.shape == (3, 21)
    assert torch.equal(task.query.y[0], data.later[row, today - 1 : today + 20])
    assert torch.equal(task.support.y[-1, -1], data.later[row, today - 1])  # known today


def test_shares_and_years_of_training_and_evaluation_are_apart() -> None:
    scenario = Trading(data="positive")
    places = {
        split: {scenario._place(client) for client in clients}
        for split, clients in scenario.clients().items()
    }
    owned = {split: {share for share, _ in found} for split, found in places.items()}
    assert not owned["train"] & owned["test"]
    assert not owned["validation"] & owned["test"]
    assert min(day for _, day in places["test"]) == 754
    assert max(day for _, day in places["test"]) + 20 < shares.DAYS
    data = shares.panel("positive", 0, "", 0)
    for round in (1, 2, 3):
        later = scenario.tasks("train", range(5), round, {})[0].tasks.query.y
        assert bool(torch.isin(later, data.later[:, :754]).all())


def test_hedged_returns_have_no_market(data_dir: Path) -> None:
    raw, hedged = (shares.panel("sp500", count, str(data_dir), 0) for count in (0, 300))
    own = shares.order_of(0)[:300]
    assert float(hedged.later[own].mean(0).abs().max()) < 1e-12
    assert float(raw.later[own].mean(0).abs().max()) > 0.01


def test_the_negative_control_has_no_mean_and_the_same_returns(data_dir: Path) -> None:
    shuffled = shares._returns("negative", str(data_dir), 0)[:, 1:]
    close = torch.from_numpy(sp500.load(str(data_dir)).close)
    own = close[:, 1:] / close[:, :-1] - 1
    own = own - own.mean(1, keepdim=True)
    torch.testing.assert_close(shuffled.sort(1).values, own.sort(1).values)
    assert float(shuffled.mean(1).abs().max()) < 1e-12


def test_the_positive_control_is_persistent_with_a_sign_by_share() -> None:
    returns = shares._returns("positive", "", 0)[:, 1:]
    left, right = returns[:, :-1], returns[:, 1:]
    correlation = (left * right).mean(1) / returns.square().mean(1)
    assert float(correlation.abs().mean()) == pytest.approx(0.2, abs=0.01)
    assert 0.4 < float((correlation > 0).double().mean()) < 0.6


def test_the_sharpe_ratio_is_that_of_all_shares_together() -> None:
    metrics = Trading(data="positive").problem().metrics
    weeks = np.array([[1.0, 2, 0, 1], [3.0, 0, 2, 1], [1.0, 1, 1, 2]])
    columns = {f"earned/week {k + 1}:after": [*weeks[:, k]] for k in range(4)}
    columns["return:after"] = [0.0] * 3
    groups = [{"window": "0754"}, {"window": "0754"}, {"window": "0774"}]
    found = clients_table([0, 1, 2], columns, metrics, groups)
    joint = np.concatenate([weeks[:2].mean(0), weeks[2]])
    assert sharpe(found) == pytest.approx(joint.mean() / joint.std(ddof=1) * (252 / 5) ** 0.5)


def test_buying_and_holding_earns_what_positions_do(scenario: Trading) -> None:
    reference = next(each for each in scenario.references() if each.name == "buy and hold")
    adapt = reference.fit(TrainingClients("", True, {}, lambda: ()))
    task = ready(scenario.clients()["test"][0], scenario)
    position = adapt(task.support)(task.query.x)
    assert torch.equal(position, task.query.x["scale"])
    expected = position[:, 1:] * task.query.y[:, 1:]
    expected = expected - 5e-4 * (position[:, 1:] - position[:, :-1]).abs()
    found = scenario.problem().metrics[0].function(position, task.query.y)
    assert float(found) == pytest.approx(100 * 252 * float(expected.mean()))


@pytest.mark.slow
def test_the_positive_control_is_found_and_the_leak_sets_off_the_alarm(
    data_dir: Path, tmp_path: Path
) -> None:
    def run(strategy: str, data: str) -> dict:
        steps = "adaptation" if strategy == "fedadam" else "inner"
        layer = {"scenario": "trading", "strategy": strategy, "data_dir": str(data_dir),
                 steps: {"lr": 1.0}}  # fmt: skip
        return execute(resolve(layer | {"task": {"data": data}}), tmp_path / f"{strategy}-{data}")

    meta, joint = (run(name, "positive")["metric"]["after"] for name in ("fomaml", "fedadam"))
    assert meta >= 20  # % a year
    assert meta >= 1.8 * joint
    figures = {each["name"]: each for each in run("fomaml", "leak")["figures"]}
    assert figures["Sharpe ratio"]["after"] > ALARM
    assert figures["look-ahead alarm"]["after"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)  # ten runs
def test_the_negative_control_is_silent(data_dir: Path, tmp_path: Path) -> None:
    """Returns in random order: in at least 9 of 10 seeds the interval does not exclude a gain of 0.

    Costs are left out: with them whoever trades loses.
    """
    silent = 0
    for seed in range(10):
        layer = {"scenario": "trading", "strategy": "fomaml", "data_dir": str(data_dir),
                 "seed": seed, "task": {"data": "negative", "costs": 0.0}}  # fmt: skip
        summary = execute(resolve(layer), tmp_path / str(seed))
        low, high = next(f["ci95"] for f in summary["figures"] if f["name"] == "return")
        silent += low <= 0 <= high
    assert silent >= 9
