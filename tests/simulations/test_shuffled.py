"""Labels shuffled: nothing is left to learn, and every method is at chance."""

from pathlib import Path

import pytest
import torch

from fedmaml.comparison.notes import notes_on
from fedmaml.comparison.planning import plan
from fedmaml.config import resolve
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.losses import IGNORED
from fedmaml.core.tasks import Task, unstack
from fedmaml.running import execute
from fedmaml.simulations.scenarios import CATALOGUE

ROUNDS = {"scenario": "digits", "strategy": "fomaml", "rounds": 30, "clients": 10}


def labels_of(task: Task) -> torch.Tensor:
    return torch.cat([task.support.y, task.query.y], 1)


def test_support_and_query_keep_their_labels_and_inputs() -> None:
    true = CATALOGUE["digits"](seed=3)
    shuffled = resolve(ROUNDS | {"seed": 3, "labels": "shuffled"}).make_scenario()
    (before,) = true.tasks("train", range(5), 4, {})
    (after,) = shuffled.tasks("train", range(5), 4, {})
    for kept, other in zip(before.tasks, after.tasks, strict=True):
        assert torch.equal(kept.x, other.x)
        assert not torch.equal(kept.y, other.y)
        assert torch.equal(kept.y.sort(1).values, other.y.sort(1).values)


def test_training_clients_are_shuffled_anew_in_every_round_and_test_clients_once() -> None:
    scenario = resolve(ROUNDS | {"labels": "shuffled", "task.resplit": False}).make_scenario()
    test = scenario.clients()["test"][:4]
    labels = {
        (split, round): labels_of(scenario.tasks(split, clients, round, {})[0].tasks)
        for split, clients in (("train", range(4)), ("test", test))
        for round in (1, 2)
    }
    assert not torch.equal(labels["train", 1], labels["train", 2])
    assert torch.equal(labels["test", 1], labels["test", 2])


def test_the_order_does_not_depend_on_who_else_is_asked() -> None:
    scenario = resolve(ROUNDS | {"labels": "shuffled"}).make_scenario()
    (alone,) = scenario.tasks("train", (3,), 2, {})
    (among,) = scenario.tasks("train", (1, 3, 5), 2, {})
    assert torch.equal(labels_of(alone.tasks)[0], labels_of(among.tasks)[1])


def test_exchanged_supports_are_those_of_the_next_client_whoever_is_asked() -> None:
    true = CATALOGUE["digits"](seed=3)
    exchanged = resolve(ROUNDS | {"seed": 3, "labels": "exchanged"}).make_scenario()
    clients = true.clients()["test"]
    own = {
        client: task
        for group in true.tasks("test", clients, 0, {})
        for client, task in unstack(group).items()
    }
    asked = (clients[-1], clients[2])
    for group in exchanged.tasks("test", asked, 0, {}):
        for client, task in unstack(group).items():
            other = clients[0] if client == clients[-1] else client + 1
            assert torch.equal(task.query.x, own[client].query.x)
            assert torch.equal(task.support.x, own[other].support.x)
            assert torch.equal(task.support.y, own[other].support.y)


def test_one_client_has_nobody_to_exchange_with() -> None:
    layer = {"scenario": "hospitals", "labels": "exchanged", "task.protocol": "leave-one-out"}
    scenario = resolve(layer).make_scenario()
    with pytest.raises(ConfigurationError, match="has one test client, so there is no other's"):
        scenario.tasks("test", scenario.clients()["test"], 0, {})


def test_true_may_be_written_as_a_truth_value() -> None:
    assert resolve(ROUNDS | {"labels": True}).labels == "true"
    assert "labels" not in resolve(ROUNDS | {"labels": True}).to_table()


def test_with_exchanged_supports_no_rate_is_learned(tmp_path: Path) -> None:
    # Of another's centre the best step is none, and the loss is that of 0: h d tau^2 / 2 = 10
    given = {"scenario": "meta_parameters", "strategy": "meta_sgd", "rounds": 300, "outer.lr": 0.05}
    summary = execute(resolve(given | {"labels": "exchanged"}), tmp_path)
    assert summary["metric"]["after"] == pytest.approx(10.0, abs=0.6)


@pytest.mark.parametrize("strategy", ["fomaml", "fedavg", "protonet"])
def test_methods_are_at_chance(strategy: str, tmp_path: Path) -> None:
    summary = execute(resolve(ROUNDS | {"strategy": strategy, "labels": "shuffled"}), tmp_path)
    # 40 devices with 30 query images each: the standard error of chance is below 0.01
    assert summary["metric"]["after"] == pytest.approx(0.1, abs=0.04)


def test_a_comparison_says_that_labels_were_shuffled() -> None:
    notes = {
        labels: notes_on(plan("digits", ["fomaml"], 1, [{"labels": labels}], 1), {}, None)
        for labels in ("true", "shuffled", "exchanged")
    }
    assert [note for note in notes["shuffled"] if "chance" in note]
    assert [note for note in notes["exchanged"] if "teach alike" in note]
    assert not [note for note in notes["true"] if "chance" in note]


def test_classes_of_a_graphs_nodes_are_shuffled_within_the_graph() -> None:
    true = CATALOGUE["graph_nodes"](shots=3)
    layer = {"scenario": "graph_nodes", "labels": "shuffled", "task.shots": 3}
    (before,) = true.tasks("test", range(650, 655), 0, {})
    (after,) = resolve(layer).make_scenario().tasks("test", range(650, 655), 0, {})
    for kept, other in zip(before.tasks, after.tasks, strict=True):
        assert torch.equal(kept.y == IGNORED, other.y == IGNORED)
        assert torch.equal(kept.y.sort(-1).values, other.y.sort(-1).values)
        same = (kept.y == other.y)[kept.y != IGNORED].double().mean()
        assert float(same) == pytest.approx(1 / 3, abs=0.2)
