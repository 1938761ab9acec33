"""How references are evaluated: what chooses settings, what is pooled, what is said of mistakes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedmaml.computing import references as evaluating
from fedmaml.computing.references import evaluate_references
from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.tasks import Batch, Task, TaskGroup, unstack
from fedmaml.simulations import references
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Scenario
from tests.windows import Windows


class Around(Scenario):
    """A scenario around another: counts what is asked of it, and may have other references."""

    about = "for tests"
    seed = 0

    def __init__(self, inner: Scenario, own: Sequence[Reference] | None = None) -> None:
        self.inner, self.own = inner, own
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.broken: set[int] = set()
        self.not_finite: set[int] = set()

    def problem(self) -> Any:
        return self.inner.problem()

    def clients(self) -> Any:
        return self.inner.clients()

    def statistics(self, client: int) -> Any:
        return self.inner.statistics(client)

    def tasks(self, split, clients, round, shared_statistics) -> list[TaskGroup]:
        self.asked.append((split, tuple(clients)))
        if self.broken & set(clients):
            raise DataError("broken")
        groups = self.inner.tasks(split, clients, round, shared_statistics)
        for group in groups:
            for row, client in enumerate(group.clients):
                if client in self.not_finite:
                    group.tasks.query.x[row, 0] = math.nan
        return groups

    def references(self) -> tuple[Reference, ...]:
        return self.inner.references() if self.own is None else tuple(self.own)


def level(name: str = "level", *levels: float) -> Reference:
    """Return a reference that predicts a number of its grid."""

    def fit(_clients, level: float):
        return lambda _support: lambda x: torch.full((len(x), 1), level, dtype=x.dtype)

    return Reference(name, "a number", fit, grid=tuple({"level": value} for value in levels))


def mean_mse(row) -> float:
    return sum(client["mse"] for client in row.clients) / len(row.clients)


def test_settings_are_chosen_on_validation_clients_before_any_test_task_is_made() -> None:
    scenario = Around(Windows())
    found = {row.name: row for row in evaluate_references(scenario, torch.float64)}
    splits = [split for split, _ in scenario.asked]
    assert splits == ["validation", "train", "test"]
    ridge = found["ridge to the mean"]
    assert ridge.tuned_on == 4
    assert found["persistence"].tuned_on == 0  # nothing to choose from
    # By hand: each weight alone on the validation clients; the best of them is what was taken.
    losses = {}
    for settings_ in references.ridge_to_the_mean(weights=(0.01, 1.0, 100.0)).grid:
        alone = references.ridge_to_the_mean(weights=(settings_["weight"],))
        as_test = Around(Windows(), [alone])
        as_test.clients = lambda: {"train": range(8), "validation": range(0), "test": range(8, 12)}
        as_test.tasks = lambda split, clients, round, shared: Windows().tasks(
            "train" if split == "train" else "validation", clients, round, shared
        )
        (row,) = evaluate_references(as_test, torch.float64)
        losses[settings_["weight"]] = mean_mse(row)
    assert ridge.settings == {"weight": min(losses, key=losses.__getitem__)}


def test_test_clients_have_no_say_in_the_choice() -> None:
    """Targets of validation clients are 1, of test clients 5: 1 is taken, though 5 is right."""

    def targets(split, clients, round, shared):
        (group,) = Windows().tasks(split, clients, round, shared)
        value = 5.0 if split == "test" else 1.0
        made = [Batch(batch.x, torch.full_like(batch.y, value)) for batch in group.tasks]
        return [TaskGroup(group.clients, Task(*made))]

    scenario = Around(Windows(), [level("level", 5.0, 1.0, 4.9)])
    scenario.tasks = targets
    (row,) = evaluate_references(scenario, torch.float64)
    assert row.settings == {"level": 1.0}
    assert [client["mse"] for client in row.clients] == [16.0] * 12


def test_without_validation_clients_the_first_setting_is_taken_and_the_row_says_so() -> None:
    scenario = Around(Windows(), [level("level", 7.0, 0.0)])
    scenario.clients = lambda: {"train": range(8), "validation": range(0), "test": range(12, 24)}
    (row,) = evaluate_references(scenario, torch.float64)
    assert (row.settings, row.tuned_on) == ({"level": 7.0}, 0)


def test_of_equal_settings_the_first_is_taken_and_undefined_ones_are_worst() -> None:
    scenario = Around(Windows(), [level("level", math.nan, 0.5, 0.5)])
    (row,) = evaluate_references(scenario, torch.float64)
    assert row.settings["level"] == 0.5


def test_values_are_the_metrics_at_each_test_client() -> None:
    found = evaluate_references(Windows(), torch.float64)
    (group,) = Windows().tasks("test", range(12, 24), 0, {})
    persistence = found[0]
    assert [row["client"] for row in persistence.clients] == list(range(12, 24))
    for row in persistence.clients:
        query = unstack(group)[row["client"]].query
        expected = float((query.x[:, -1:] - query.y).square().mean())
        assert row["mse"] == pytest.approx(expected, rel=1e-12)


def test_pooling_is_said_and_predictions_that_are_not_finite_diverge() -> None:
    found = {row.name: row for row in evaluate_references(Windows(), torch.float64)}
    assert not found["pooled random forest"].federated
    assert found["ridge to the mean"].federated
    scenario = Around(Windows(), [level("level", math.inf)])
    (row,) = evaluate_references(scenario, torch.float64)
    assert {client["mse"] for client in row.clients} == {"diverged"}


def test_runs_that_differ_in_the_strategy_alone_pay_once(monkeypatch) -> None:
    counted = []
    original = evaluating._tuned
    monkeypatch.setattr(evaluating, "_tuned", lambda *a: counted.append(a) or original(*a))
    first = evaluate_references(Windows(seed=91), torch.float32)
    again = evaluate_references(Windows(seed=91), torch.float32)
    assert again is first
    assert len(counted) == 3
    other = evaluate_references(Windows(seed=92), torch.float32)
    assert other[0].clients != first[0].clients


def test_a_scenario_with_a_setting_that_cannot_be_hashed_is_evaluated_all_the_same() -> None:
    scenario = Around(Windows(), [level("level", 1.0)])
    scenario.__class__ = type("Unhashable", (Around,), {"__hash__": None})
    with pytest.raises(TypeError):
        hash(scenario)
    assert len(evaluate_references(scenario, torch.float64)) == 1


def test_a_client_whose_data_cannot_be_used_is_left_out_as_for_strategies() -> None:
    scenario = Around(Windows())
    scenario.broken, scenario.not_finite = {15}, {17}
    found = evaluate_references(scenario, torch.float64)
    for row in found:
        assert [client["client"] for client in row.clients] == [
            client for client in range(12, 24) if client not in (15, 17)
        ]


def test_a_scenario_without_references_deals_no_task() -> None:
    scenario = Around(Windows(), [])
    assert evaluate_references(scenario, torch.float64) == ()
    assert scenario.asked == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: x.nothing,
            r"'mine' raised AttributeError at client 12: .*references.py:\d+",
        ),
        (
            lambda x: x[:, :2],
            r"'mine' predicts shape \(8, 2\) at client 12, .*network \(8, 1\)",
        ),
    ],
)
def test_a_reference_that_is_wrong_is_named_with_the_client(function, message: str) -> None:
    mine = Reference("mine", "wrong", lambda _clients: lambda _support: function)
    scenario = Around(Windows(), [mine])
    with pytest.raises(ConfigurationError, match=message):
        evaluate_references(scenario, torch.float64)


def test_references_with_one_name_or_no_setting_are_refused() -> None:
    one = references.persistence()
    with pytest.raises(ConfigurationError, match="two references are named 'persistence'"):
        evaluate_references(Around(Windows(), [one, one]), torch.float64)
    with pytest.raises(ConfigurationError, match="'persistence' has an empty grid"):
        evaluate_references(Around(Windows(), [replace(one, grid=())]), torch.float64)
