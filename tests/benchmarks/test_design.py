"""Strings that agents and searches buy: curves and rows by hand, and what an agent is fed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.acting.models import Model, model_of
from benchmarks.acting.pictures import draw_design
from benchmarks.design import (
    BANDS,
    best_so_far,
    bought,
    by_agent,
    expected,
    plane_of,
    row_of,
    searched,
    searches,
)  # fmt: skip
from fedmaml.config import resolve
from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch, task_at
from fedmaml.running import execute
from fedmaml.simulations.scenarios import MoleculeDesign

REWARDS = torch.full((1, 6, 8), 0.2, dtype=torch.float64)
REWARDS[0, 1, 3], REWARDS[0, 5, 0] = 0.9, 0.6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    layer = {"scenario": "molecule_design", "strategy": "pearl", "rounds": 1, "clients": 2}
    small = {"task.hidden": 4, "task.test_clients": 4, "evaluation.split": "validation"}
    out = tmp_path_factory.mktemp("runs") / "run"
    execute(resolve(layer, small), out)
    return model_of(out)


def test_a_row_has_batches_and_the_best_so_far() -> None:
    row = row_of("x", REWARDS)
    assert row["first"]["mean"] == pytest.approx(0.2)
    assert row["last"]["mean"] == pytest.approx((0.6 + 7 * 0.2) / 8)
    assert row["best"]["mean"] == pytest.approx(0.6)
    assert [row[f"after_{count}"] for count in (8, 24, 48)] == pytest.approx([0.2, 0.9, 0.9])
    assert best_so_far(REWARDS)[[10, 11]].tolist() == pytest.approx([0.2, 0.9])


def test_an_agent_and_searches_buy_six_batches_of_eight(model: Model) -> None:
    scenario = MoleculeDesign(test_clients=4)
    assert bought(model.adapt, model.tasks_of(scenario)).shape == (4, 6, 8)
    found = {name: searched(make(), scenario) for name, make in searches(scenario).items()}
    assert {values.shape for values in found.values()} == {(4, 6, 8)}
    best = {name: float(best_so_far(values)[-1]) for name, values in found.items()}
    assert best["genetic search"] > 0.7


def test_an_agent_that_may_buy_nothing_twice_uses_what_it_bought(model: Model) -> None:
    fed = []

    def adapt(support: Batch) -> Predictor:
        fed.append(support.x["played"])
        return model.adapt(support)

    known = [(0, 6, 6, 6, 6, 6, 6, 6), (1, 0, 6, 6, 6, 6, 6, 6)]
    found = by_agent(adapt)(known, [0.25, 0.5], np.random.default_rng(0), 8)
    assert fed[0].tolist() == [[*known[0], 0.25], [*known[1], 0.5]]
    assert len({*found, *known}) == 8 + len(known)


def test_an_agent_that_knows_one_string_alone_goes_on_with_random_ones() -> None:
    one = torch.tensor([0.0, 6, 6, 6, 6, 6, 6, 6, 0.25])
    found = by_agent(lambda _support: lambda x: {"played": one.expand(len(x["noise"]), -1)})(
        [], [], np.random.default_rng(0), 8
    )
    assert found[0] == (0, 6, 6, 6, 6, 6, 6, 6)
    assert len(set(found)) == 8


def test_expected_figures_stand_beside_what_was_found() -> None:
    names = {operand for band in BANDS for operand in band.names()}
    rows = {name: row_of(name, REWARDS) for name in names}
    table = expected(rows).rows
    assert len(table) == len(BANDS)
    found = {row["what"]: (row["found"], row["reached"]) for row in table.values()}
    assert found["best of 48: genetic search"] == (pytest.approx(0.9), "reached")
    assert found["mean of batch 6: PEARL minus PEARL without context"] == (0.0, "**missed**")


def test_without_context_an_agent_values_strings_alike_whatever_it_was_fed(model: Model) -> None:
    tasks = [
        task_at(model.tasks_of(MoleculeDesign(test_clients=4, null=null)), 0)
        for null in (False, True)
    ]
    for context, same in ((0, True), (40, False)):
        strategy = resolve(model.config.to_table(), {"context": context}).make_strategy()
        agent = Model(model.config, replace(model.prepared, strategy=strategy), model.meta)
        own, of_others = (agent.adapt(task.support)(task.query.x)["q"] for task in tasks)
        assert torch.equal(own, of_others) is same


def test_the_picture_has_a_target_and_three_batches(model: Model, tmp_path: Path) -> None:
    scenario = MoleculeDesign()
    client = scenario.clients()["test"][0]
    task = task_at(model.tasks_of(scenario), 0)
    plane = plane_of(model.adapt, task, scenario.targets([client])[0])
    assert plane.target.shape == (2,)
    assert {name: values.shape for name, values in plane.batches.items()} == {
        "batch 1": (8, 2), "batch 3": (8, 2), "batch 6": (8, 2)
    }  # fmt: skip
    pictures = [tmp_path / name for name in ("one.svg", "other.svg")]
    for path in pictures:
        draw_design(plane, {"PEARL": best_so_far(REWARDS)}, path)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
