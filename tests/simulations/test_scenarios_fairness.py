"""Fairness: the data, the penalty, the common rates and the gap, against what is known of them."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmaml.config import resolve
from fedmaml.core import losses, seeding
from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.figures import clients_table
from fedmaml.core.linear import with_ones
from fedmaml.core.metrics import CONFUSION
from fedmaml.core.params import flatten
from fedmaml.core.tasks import Batch, cast, first_task
from fedmaml.report import write_report
from fedmaml.running import execute
from fedmaml.simulations.datasets import adult, compas
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.scenario import totals_of
from fedmaml.simulations.scenarios import Fairness
from fedmaml.simulations.systems import equal_rates
from fedmaml.strategies.maml import MAML


def test_compas_has_the_published_people_and_shares_of_arrests(data_dir: Path) -> None:
    groups = compas.load(str(data_dir))
    assert [len(y) for _, y in groups.values()] == [3175, 2103, 509, 343]  # 6,172 less 42
    assert [round(float(y.mean()), 3) for _, y in groups.values()] == [0.523, 0.391, 0.371, 0.362]


def test_adult_has_the_published_people_and_shares_of_incomes(data_dir: Path) -> None:
    groups = adult.load(str(data_dir))
    assert [len(y) for _, y in groups.values()] == [28735, 13027, 2377, 2308]
    assert [round(float(y.mean()), 3) for _, y in groups.values()] == [0.315, 0.118, 0.183, 0.057]


@pytest.mark.parametrize(("data", "module"), [("compas", compas), ("adult", adult)])
def test_a_truncated_file_is_named(data: str, module, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / data).mkdir()
    shutil.copy(data_dir / data / module.FILE.name, tmp_path / data)
    path = tmp_path / data / module.FILE.name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{module.FILE.name} is not the original"):
        Fairness(data=data, data_dir=str(tmp_path)).clients()
    path.unlink()
    with pytest.raises(DataError, match="no file"):
        Fairness(data=data, data_dir=str(tmp_path)).clients()


def test_more_shots_than_a_group_has_people_are_refused(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="group Other has 206 people who train"):
        Fairness(shots=140, data_dir=str(data_dir)).clients()


def test_without_a_penalty_the_loss_is_cross_entropy_bit_for_bit() -> None:
    logits, y = torch.randn(9, 1), torch.cat([(torch.randn(9, 1) > 0).float(), torch.ones(9, 2)], 1)
    plain = losses.binary_cross_entropy(logits, y[:, 0])
    assert torch.equal(equal_rates.penalised(logits, y, 0.0), plain)


def test_the_penalty_of_a_hand_made_example() -> None:
    probability = torch.tensor([0.5, 0.7, 0.2], dtype=torch.float64)
    label = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    rates = torch.tensor([0.5, 0.4], dtype=torch.float64).expand(3, 2)
    y = torch.cat([label[:, None], rates], 1)
    logits = probability.logit()[:, None]
    added = equal_rates.penalised(logits, y, 2.0) - losses.binary_cross_entropy(logits, label)
    # Mean .6 over positives against .5, mean .2 over negatives against .4.
    torch.testing.assert_close(added, torch.full((3,), 2 * (0.1**2 + 0.2**2), dtype=torch.float64))


def test_a_rate_without_positives_costs_nothing() -> None:
    y = torch.tensor([[0.0, 0.9, 0.5], [0.0, 0.9, 0.5]])
    logits = torch.zeros(2, 1, requires_grad=True)
    loss = equal_rates.penalised(logits, y, 8.0)
    torch.testing.assert_close(loss, torch.full((2,), math.log(2)))
    loss.sum().backward()
    assert logits.grad.isfinite().all()


def test_common_rates_follow_from_sums_of_the_clients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + torch.randn(60, generator=generator, dtype=torch.float64) > 0).double()
    parts = [equal_rates.sums_of_rates(x[i::4], y[i::4]) for i in range(4)]
    totals = {name: sum(part[name] for part in parts) for name in parts[0]}
    predicted = with_ones(x) @ torch.linalg.lstsq(with_ones(x), y[:, None]).solution
    expected = [float(predicted[y == label].mean()) for label in (1, 0)]
    assert equal_rates.common_rates(totals) == pytest.approx(expected, abs=1e-12)


def table(rows: list[tuple[str, int, int, int, int]]):
    """Return clients with tables of confusion: group, tp, fp, fn, tn."""
    columns = {
        f"confusion/{cell}:after": [row[at] for row in rows]
        for at, cell in enumerate(("tp", "fp", "fn", "tn"), 1)
    }
    groups = [{"group": row[0]} for row in rows]
    return clients_table(range(len(rows)), columns, [CONFUSION], groups)


def test_the_gap_of_hand_made_tables() -> None:
    everyone, largest, _ = equal_rates.figures("group", ("a", "b"))
    # TPR .8, .5, .5; FPR .1, .2, .6
    clients = table([("a", 8, 1, 2, 9), ("b", 3, 2, 3, 8), ("b", 1, 0, 1, 0), ("c", 1, 6, 1, 4)])
    assert everyone(clients) == pytest.approx(0.5)
    assert largest(clients) == pytest.approx(0.3)


def test_the_gap_of_equal_groups_is_that_of_random_groups_within_sampling_error() -> None:
    everyone, _, chance = equal_rates.figures("group", ("a", "b"))
    rng = np.random.default_rng(1)
    true, people = np.array([0.6, 0.2]), 5
    rows = []
    for client in range(600):
        label = rng.random(people) < 0.4
        said = rng.random(people) < true[np.where(label, 0, 1)]
        counts = [int((said == s)[label == t].sum()) for s, t in ((1, 1), (1, 0), (0, 1), (0, 0))]
        rows.append(("ab"[client % 2], *counts))
    error = math.sqrt(2 * 0.24 / (300 * people * 0.4))  # of a difference of true positive rates
    assert everyone(table(rows)) < 3 * error
    assert chance(table(rows)) < 3 * error
    apart = [replace_group(row, index) for index, row in enumerate(rows)]
    assert everyone(table(apart)) > 0.9  # positives of "a" are all found, of "b" none


def replace_group(row, index: int):
    group, tp, fp, fn, tn = row
    return (group, tp + fn, fp, 0, tn) if index % 2 else (group, 0, fp, tp + fn, tn)


def test_all_test_clients_of_a_group_have_its_support_and_people_of_their_own(
    data_dir: Path,
) -> None:
    scenario = Fairness(data_dir=str(data_dir))
    totals = totals_of(scenario, scenario.clients()["train"])
    clients = scenario.clients()["test"]
    (group,) = scenario.tasks("test", clients, 0, totals)
    names = [scenario.groups(client)["group"] for client in clients]
    assert [names.count(name) for name in compas.GROUPS] == [234, 148, 20, 7]
    for name in compas.GROUPS:
        rows = [row for row, own in enumerate(names) if own == name]
        assert (group.tasks.support.x[rows] == group.tasks.support.x[rows[0]]).all()
    assert group.tasks.query.y.shape == (409, 5, 3)
    t1, t0 = group.tasks.query.y[0, 0, 1:].tolist()
    assert 0 < t0 < t1 < 1
    assert replace(scenario, penalty=0.0).problem().loss.keywords == {"penalty": 0.0}


def test_one_penalised_regression_for_all_groups_is_at_the_minimum() -> None:
    rng = torch.Generator().manual_seed(0)
    parts = []
    for people in (40, 90):
        x = torch.randn(people, 3, generator=rng, dtype=torch.float64)
        label = (x[:, 0] + torch.randn(people, generator=rng) > 0).double()
        parts.append(
            Batch(x, torch.stack([label, *torch.tensor([[0.6], [0.3]]).expand(2, people)], 1))
        )
    named = {reference.name: reference for reference in equal_rates.references_of(8.0)}
    clients = TrainingClients("pooled with penalty", False, {}, lambda: parts)
    predict = named["pooled with penalty"].fit(clients)(parts[0])
    at = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    bias, *others = predict(at)[:, 0]
    weights = torch.stack([*(other - bias for other in others), bias]).requires_grad_()
    every = [equal_rates.penalised(with_ones(x) @ weights[:, None], y, 8.0) for x, y in parts]
    (slope,) = torch.autograd.grad(torch.cat(every).mean(), weights)
    assert float(slope.norm()) < 1e-5
    assert "pooled with penalty" not in {each.name for each in equal_rates.references_of(0.0)}


def test_without_a_penalty_a_run_is_that_of_the_cross_entropy_bit_for_bit(data_dir: Path) -> None:
    scenario = replace(Fairness(data_dir=str(data_dir)), penalty=0.0)
    problem = scenario.problem()
    plain = replace(problem, loss=lambda logits, y: losses.binary_cross_entropy(logits, y[:, 0]))
    totals = totals_of(scenario, scenario.clients()["train"])
    task = first_task(cast(scenario.tasks("train", range(1), 1, totals)[0].tasks, torch.float32))
    strategy, sent = MAML(), []
    for each in (problem, plain):
        start = strategy.build(each, seeding.generator(0, "init"))
        update = strategy.client_update(start.learner, start.state.meta, start.memory, task)
        sent.append(flatten(update.update["theta"]))
    assert torch.equal(*sent)
    assert sent[0].abs().sum() > 0


@pytest.mark.slow
def test_the_report_has_the_gap_with_its_interval_the_one_of_random_groups_and_the_warning(
    data_dir: Path, tmp_path: Path
) -> None:
    layer = {"scenario": "fairness", "strategy": "fedavg", "rounds": 2, "data_dir": str(data_dir)}
    summary = execute(resolve(layer), tmp_path / "run")
    gaps = {each["name"]: each for each in summary["figures"] if "gap" in each["name"]}
    assert [*gaps] == [
        "equalised odds gap by group",
        "equalised odds gap, 2 largest groups",
        "equalised odds gap, random groups",
    ]
    assert all(each["ci95"][0] <= each["ci95"][1] for each in gaps.values())
    page = write_report([tmp_path / "run"]).page.read_text()
    assert "adapting means a different model per protected group" in page
    for words in ("disparate treatment", "calibration", "new arrests", "Random groups"):
        assert words in page
    for name, gap in gaps.items():
        assert name in page
        assert f"{gap['after']:.3f}" in page
        assert f"{gap['ci95'][0]:.3f}" in page
