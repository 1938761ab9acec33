"""Class stream: characters come one after another, and steps see one at a time."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedmaml.config import resolve
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem, make_learner
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import LinearModel
from fedmaml.core.seeding import generator
from fedmaml.core.tasks import Batch, task_at
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations import references
from fedmaml.simulations.datasets import omniglot
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.scenarios import ClassStream
from fedmaml.simulations.scenarios.class_stream import by_character, by_half

Y = torch.arange(10).repeat_interleave(5)


def stream(lr: float) -> Tensor:
    """Return the logits of ten one-hot classes after a stream of one step for each."""
    problem = Problem(lambda: LinearModel(10, 10), cross_entropy, (ACCURACY,), classes=10)
    learner, theta = make_learner(problem, generator(0))
    steps = GradientSteps(lr=lr, epochs=1, batch=5)
    x = torch.nn.functional.one_hot(Y, 10).float()
    fast = steps.run(learner.loss, theta, Batch(x, Y))
    return learner.apply(fast, torch.eye(10))


def test_disjoint_inputs_are_not_forgotten() -> None:
    assert stream(5.0).argmax(1).tolist() == list(range(10))


def test_at_a_rate_of_nearly_zero_nothing_is_learned() -> None:
    chances = stream(1e-9).softmax(1).diagonal()
    torch.testing.assert_close(chances, torch.full((10,), 0.1))


def test_the_nearest_mean_needs_no_order() -> None:
    draws = torch.Generator().manual_seed(0)
    x, query = (torch.randn(count, 4, generator=draws) for count in (50, 9))
    order = torch.randperm(50, generator=draws)
    adapt = references.nearest_class_mean(10).fit(TrainingClients("", True, {}, list))
    turned = adapt(Batch(x[order], Y[order]))(query)
    torch.testing.assert_close(turned, adapt(Batch(x, Y))(query))
    half = adapt(Batch(x[:25], Y[:25]))(query)
    assert int(half.argmax(1).max()) < 5  # what was not seen is not predicted


def test_halves_by_hand() -> None:
    y = torch.tensor([0, 1, 9, 9])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 2, 9, 9]), 10).float()
    assert {name: float(value) for name, value in by_half(logits, y).items()} == {
        "first": 0.5, "last": 1.0,
    }  # fmt: skip


def test_characters_by_hand() -> None:
    y = torch.tensor([0, 1, 9, 9])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 2, 9, 1]), 10).float()
    found = {place: float(value) for place, value in by_character(logits, y).items()}
    assert [place for place, value in found.items() if not math.isnan(value)] == ["1", "2", "10"]
    assert (found["1"], found["2"], found["10"]) == (1.0, 0.0, 0.5)


def test_at_rate_zero_nothing_is_forgotten_and_a_tenth_is_right(
    data_dir: Path, tmp_path: Path
) -> None:
    config = resolve(
        {
            "scenario": "class_stream",
            "strategy": "local",
            "inner.lr": 1e-60,
            "task.test_clients": 4,
            "evaluation.shots": [75],
            "data_dir": str(data_dir),
        }
    )
    execute(config, tmp_path)
    for row in RunDirectory(tmp_path).clients():
        assert row["accuracy:after"] == pytest.approx(0.1)
        assert row["accuracy:shots@75"] == row["accuracy:after"]
        assert row["halves/first:shots@75"] == row["halves/first:after"]


def test_characters_come_one_after_another_and_the_query_has_other_drawings(
    data_dir: Path,
) -> None:
    scenario = ClassStream(repeats=2, data_dir=str(data_dir))
    client = scenario.clients()["test"][0]
    task = task_at(scenario.tasks("test", [client], 0, {})[0].tasks, 0)
    assert task.support.y.tolist() == torch.arange(10).repeat_interleave(10).tolist()
    assert torch.equal(task.support.x[:5], task.support.x[5:10])  # seen twice
    drawings = {row.numpy().tobytes() for row in task.support.x}
    assert len(drawings) == 50
    assert not drawings & {row.numpy().tobytes() for row in task.query.x}


def test_streams_of_the_test_have_characters_of_other_alphabets(data_dir: Path) -> None:
    scenario, everything = ClassStream(data_dir=str(data_dir)), omniglot.load(str(data_dir))
    small = torch.nn.functional.avg_pool2d(everything.images.flatten(0, 1).float() / 255, 2)
    owner = {
        row.numpy().tobytes(): int(everything.alphabet[at // omniglot.DRAWERS])
        for at, row in enumerate(small.flatten(1))
    }
    for split, allowed in (("train", range(24)), ("validation", range(24, 30)),
                           ("test", range(30, 50))):  # fmt: skip
        client = scenario.clients()[split][0]
        task = scenario._task(split, client, 1)
        assert {owner[row.numpy().tobytes()] for row in task.query.x} <= set(allowed)
