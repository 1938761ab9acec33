"""Trials that models and processes choose: rows by hand, and what a model is asked."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.acting.models import model_of
from benchmarks.acting.pictures import draw_trials
from benchmarks.synthesis import EXPECTED, by_model, by_processes, floor, row_of
from fedmaml.config import resolve
from fedmaml.core.tasks import task_at
from fedmaml.running import execute
from fedmaml.simulations.scenarios import Synthesis
from fedmaml.simulations.systems.trials import regrets


def test_a_row_has_the_regret_after_some_trials_and_of_each_seed() -> None:
    first = torch.linspace(0.6, 0.0, 7).double().expand(4, -1)
    row = row_of("FedAvg", [first, first + 0.1])
    assert row["after_6"]["mean"] == pytest.approx(0.65)
    assert row["after_12"]["mean"] == pytest.approx(0.05)
    assert row["seeds"] == pytest.approx([0.0, 0.1])
    assert row["expected"] == EXPECTED["FedAvg"]
    assert row_of("MAML", [first])["expected"] is None


def test_a_model_tries_what_it_predicts_to_be_best(tmp_path: Path) -> None:
    settings = {"scenario": "synthesis", "strategy": "fedavg", "rounds": 2, "clients": 4}
    execute(resolve(settings), tmp_path / "run")
    model, scenario = model_of(tmp_path / "run"), Synthesis()
    (group,) = scenario.tasks("test", [130], 1, {})
    task = task_at(group.tasks, 0)
    scores = by_model(model)(task.support)(task.query.x)
    ready = task_at(model.tasks_of(scenario, [130]), 0)
    support = ready.support._replace(x=ready.support.x.float(), y=ready.support.y.float())
    expected = model.adapt(support)(ready.query.x.float())[:, 0]
    torch.testing.assert_close(scores, expected.detach())
    assert regrets(scenario, [130], by_model(model), 1).shape == (1, 2)


def test_an_archive_is_worth_more_than_chance() -> None:
    scenario = Synthesis(train_clients=20)
    policies = by_processes(scenario)
    clients = scenario.clients()["test"][:4]
    found = regrets(scenario, clients, policies["Gaussian process, archive"], 2)
    assert float(found[:, -1].mean()) < float(found[:, 0].mean())


def test_the_best_on_average_asks_all_materials_for_the_same_and_none_is_below_the_floor() -> None:
    scenario = Synthesis(train_clients=20)
    clients = scenario.clients()["test"][:12]
    (group,) = scenario.tasks("test", clients, 1, {})
    policy = by_processes(scenario)["best on average"]
    tasks = [task_at(group.tasks, row) for row in range(len(clients))]
    chosen = {int(policy(task.support)(task.query.x[:-1]).argmax()) for task in tasks}
    assert len(chosen) == 1
    (place,) = chosen
    reached, tried = floor(scenario, clients), regrets(scenario, clients, policy, 2)
    candidates = scenario.candidates(clients).y
    assert torch.equal(reached, 1 - candidates[:, :-1].amax(1) / candidates[:, -1])
    own = 1 - candidates[:, place] / candidates[:, -1]
    torch.testing.assert_close(
        tried[:, 1:], torch.minimum(tried[:, :1], own[:, None]).expand(-1, 2)
    )
    assert (own >= reached).all()
    assert (own > reached + 0.01).any()


def test_the_picture_has_a_line_for_each_method(tmp_path: Path) -> None:
    path = tmp_path / "trials.svg"
    draw_trials({f"method {place}": np.linspace(0.4, 0.1, 7) for place in range(12)}, path)
    first = path.read_bytes()
    draw_trials({f"method {place}": np.linspace(0.4, 0.1, 7) for place in range(12)}, path)
    assert path.read_bytes() == first
    assert path.read_text().count("method") >= 12
