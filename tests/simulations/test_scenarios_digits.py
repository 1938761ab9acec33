"""Digits on crossed keypads: who holds which image, and which label counts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.tasks import Batch, Task
from fedmaml.running import execute
from fedmaml.simulations.datasets.digits import load
from fedmaml.simulations.scenario import SPLITS
from fedmaml.simulations.scenarios import Digits, digits
from fedmaml.simulations.scenarios.digits import _within
from fedmaml.strategies import CATALOGUE, ProtoNet

IMAGES = 1797


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Iterator[np.ndarray]:
    """Images that tell their number: pixel 0 is number * 10^9, pixel 1 is 10^9.

    A device's gain leaves the ratio of the two as it is; offset and noise, below 10, do not reach
    it. Yields the true digits.
    """
    _, labels = load()
    images = np.zeros((IMAGES, 64))
    images[:, 0], images[:, 1] = np.arange(IMAGES) * 1e9, 1e9
    monkeypatch.setattr("fedmaml.simulations.datasets.digits.load", lambda: (images, labels))
    digits._devices.cache_clear()
    yield labels
    digits._devices.cache_clear()


def test_the_images_are_those_of_scikit_learn() -> None:
    images, labels = load_digits(return_X_y=True)
    ours, digits_of_ours = load()
    assert np.array_equal(ours, images)
    assert np.array_equal(digits_of_ours, labels)
    assert (ours.dtype, digits_of_ours.dtype) == (images.dtype, labels.dtype)


def numbers(batch: Batch) -> torch.Tensor:
    """Return the numbers of the images of `marked`."""
    return (batch.x[..., 0] / batch.x[..., 1]).double().round().long()


def all_tasks(scenario: Digits, split: str, round: int = 1) -> Task:
    return scenario.tasks(split, list(scenario.clients()[split]), round, {})[0].tasks


def everything(task: Task, read: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
    return torch.cat([read(task.support), read(task.query)], 1)


@pytest.mark.parametrize("skew", [False, True])
def test_images_of_the_splits_come_from_disjoint_pools(marked: np.ndarray, skew: bool) -> None:
    scenario = Digits(skew=skew)
    used = [
        set(everything(all_tasks(scenario, split), numbers).flatten().tolist())
        for split in ("train", "validation", "test")
    ]
    assert not used[0] & used[1]
    assert not used[1] & used[2]
    assert not used[0] & used[2]
    assert set.union(*used) <= set(range(IMAGES))
    # 1/2, 1/6, 1/3 of 1,797; 60 devices with 50 images each use most of their 898.
    assert 700 < len(used[0]) <= 898
    assert len(used[1]) <= 300
    assert len(used[2]) <= 599


def wired(scenario: Digits, marked: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the true digits and the labels of all test devices."""
    task = all_tasks(scenario, "test")
    return torch.from_numpy(marked)[everything(task, numbers)], everything(task, lambda b: b.y)


def test_without_crossing_labels_are_the_true_digits(marked: np.ndarray) -> None:
    true, labels = wired(Digits(cross=0), marked)
    assert torch.equal(labels, true)


def test_with_certain_crossing_every_label_is_its_partner(marked: np.ndarray) -> None:
    # pairs (0,1) (2,3) ..: the partner differs in the last bit
    true, labels = wired(Digits(cross=1), marked)
    assert torch.equal(labels, true ^ 1)


def test_a_device_crosses_a_pair_always_or_never(marked: np.ndarray) -> None:
    true, labels = wired(Digits(cross=0.3, test_clients=200), marked)
    crossed = (labels != true).double()
    assert ((labels == true) | (labels == true ^ 1)).all()
    shares = torch.stack(
        [(crossed * (true // 2 == pair)).sum(1) / (true // 2 == pair).sum(1) for pair in range(5)]
    )
    assert set(shares.flatten().tolist()) == {0.0, 1.0}
    # 1,000 bits with probability .3: standard deviation sqrt(.21 / 1000) = .0145; allow 4 of it.
    assert float(shares.mean()) == pytest.approx(0.3, abs=0.06)


def test_with_even_crossing_no_label_of_a_digit_is_right_at_more_than_half_of_the_devices(
    marked: np.ndarray,
) -> None:
    # A model that is not adapted gives an image one label, whosever it is. Of 1,000 devices the
    # share has the standard deviation .0158; allow 4 of it.
    true, labels = wired(Digits(cross=0.5, test_clients=1000), marked)
    shares = torch.stack(
        [
            labels[true == digit].bincount(minlength=10) / (true == digit).sum()
            for digit in range(10)
        ]
    )
    pairs = torch.eye(5).repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(shares, pairs / 2, rtol=0, atol=0.064)
    assert torch.equal(shares > 0, pairs > 0)


@pytest.mark.parametrize("strategy", ["fedavg", "maml"])
def test_with_even_crossing_training_alone_reaches_half_at_most(
    strategy: str, tmp_path: Path
) -> None:
    given = {"scenario": "digits", "strategy": strategy, "task.cross": 0.5}
    found = execute(resolve(given), tmp_path / "run")["metric"]
    assert 0.3 < found["before"] < 0.5
    assert found["after"] > 0.65


@pytest.mark.parametrize("skew", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_a_device_holds_no_image_twice(marked: np.ndarray, split: str, skew: bool) -> None:
    for seed in range(3):
        for row in everything(all_tasks(Digits(seed=seed, skew=skew), split), numbers):
            assert len(set(row.tolist())) == 50


def test_images_for_which_a_class_has_no_room_go_to_others_by_their_shares() -> None:
    rng = np.random.default_rng(0)
    available, shares = np.array([5, 40, 40, 0]), np.array([0.7, 0.3, 0.0, 0.0])
    assert _within(np.array([35, 15, 0, 0]), shares, available, rng).tolist() == [5, 40, 5, 0]
    counts = np.array([5, 20, 25, 0])
    assert _within(counts, shares, available, rng).tolist() == counts.tolist()  # nothing to move


def test_evaluation_has_shots_and_queries_of_each_class() -> None:
    task = all_tasks(Digits(shots=2, queries=3), "test")
    for row in task.support.y:
        assert row.bincount(minlength=10).tolist() == [2] * 10
    for row in task.query.y:
        assert row.bincount(minlength=10).tolist() == [3] * 10


def test_training_splits_are_drawn_at_random_from_the_same_images(marked: np.ndarray) -> None:
    first, second = (all_tasks(Digits(), "train", round) for round in (1, 2))
    one, other = everything(first, numbers), everything(second, numbers)
    assert torch.equal(one.sort(1).values, other.sort(1).values)
    assert not torch.equal(numbers(first.support), numbers(second.support))
    # at random, not evenly by class
    assert any(row.bincount(minlength=10).tolist() != [2] * 10 for row in first.support.y)
    # labels move with their images
    true = torch.from_numpy(marked)[one]
    assert ((true // 2) == (everything(first, lambda b: b.y) // 2)).all()


def test_without_resplit_training_tasks_are_constant() -> None:
    first, second = (all_tasks(Digits(resplit=False), "train", round) for round in (1, 2))
    assert torch.equal(first.support.x, second.support.x)
    assert torch.equal(first.query.y, second.query.y)
    for row in first.support.y:
        assert row.bincount(minlength=10).tolist() == [2] * 10


def test_skewed_devices_hold_classes_unevenly_but_as_many_images() -> None:
    task = all_tasks(Digits(skew=True), "test")
    labels = everything(task, lambda b: b.y)
    assert labels.shape == (40, 50)
    counts = torch.stack([row.bincount(minlength=10) for row in labels])
    assert (counts == 0).any(1).float().mean() > 0.5  # most devices lack a class


def test_tasks_survive_a_restart() -> None:
    before = all_tasks(Digits(), "train")
    digits._devices.cache_clear()
    after = all_tasks(Digits(), "train")
    assert torch.equal(before.support.x, after.support.x)
    assert torch.equal(before.query.y, after.query.y)


def test_inputs_are_scaled_to_order_one() -> None:
    x = all_tasks(Digits(), "train").support.x
    assert x.dtype == torch.float32
    assert 0.5 < float(x.std()) < 2
    assert abs(float(x.mean())) < 0.5


# --- crossing-equivariance --------------------------------------------------------------------


def swap(labels: torch.Tensor, pair: int) -> torch.Tensor:
    return torch.where(labels // 2 == pair, labels ^ 1, labels)


def swapped(task: Task, pair: int) -> Task:
    return Task(*(Batch(batch.x, swap(batch.y, pair)) for batch in task))


def a_task() -> Task:
    task = all_tasks(Digits(), "test")
    return Task(*(Batch(batch.x[0].double(), batch.y[0]) for batch in task))


def double_problem() -> Problem:
    given = Digits().problem()
    return Problem(
        given.network, given.loss, given.metrics, classes=given.classes, dtype=torch.float64
    )


@pytest.mark.parametrize("name", ["maml", "fomaml", "fedavg"])
@pytest.mark.parametrize("pair", [0, 3])
def test_crossing_a_pair_everywhere_leaves_the_adapted_loss_as_it_was(name: str, pair: int) -> None:
    # Swapping two labels in support and query, and the same two output rows of theta, only renames
    # the classes: the loss after adaptation is the same to rounding.
    steps = GradientSteps(lr=0.2, steps=5)
    strategy = CATALOGUE[name](**{"adaptation" if name == "fedavg" else "inner": steps})
    start = strategy.build(double_problem(), seeding.generator(0))
    theta = start.state.meta["theta"]
    rows = swap(torch.arange(10), pair)
    renamed = theta | {key: theta[key][rows] for key in ("head.weight", "head.bias")}

    def loss(theta, task: Task) -> float:
        predictor = strategy.adapt(start.learner, {"theta": theta}, {}, task.support)
        return float(start.learner.query_loss(predictor, task.query))

    plain = loss(theta, a_task())
    assert loss(renamed, swapped(a_task(), pair)) == pytest.approx(plain, rel=1e-12)
    # renaming only one of the two does change it
    assert abs(loss(theta, swapped(a_task(), pair)) - plain) > 1e-6


def test_protonet_does_not_care_which_wire_is_which() -> None:
    start = ProtoNet().build(double_problem(), seeding.generator(0))

    def loss(task: Task) -> float:
        predictor = ProtoNet().adapt(start.learner, start.state.meta, {}, task.support)
        return float(start.learner.query_loss(predictor, task.query))

    assert loss(swapped(a_task(), 2)) == pytest.approx(loss(a_task()), rel=1e-12)
