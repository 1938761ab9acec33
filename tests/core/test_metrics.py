"""Metrics against scikit-learn, and where they are undefined."""

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from fedmaml.core import metrics, seeding


def scores(seed: int, ties: bool) -> tuple[torch.Tensor, torch.Tensor]:
    logit = seeding.normal(seeding.key(seed, "logit"), [0], 40)[0]
    y = (seeding.uniform(seeding.key(seed, "y"), [0], 40)[0] < 0.3).double()
    return (logit.mul(2).round() if ties else logit), y


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_roc_auc_equals_scikit_learn(seed: int, ties: bool) -> None:
    logit, y = scores(seed, ties)
    assert float(metrics.roc_auc(logit, y)) == pytest.approx(roc_auc_score(y, logit), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_equals_scikit_learn(seed: int) -> None:
    logit, y = scores(seed, False)
    expected = balanced_accuracy_score(y, logit > 0)
    assert float(metrics.balanced_accuracy(logit, y)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("metric", [metrics.roc_auc, metrics.balanced_accuracy])
def test_one_class_alone_gives_nan(metric, label: float) -> None:
    assert math.isnan(metric(torch.tensor([1.0, -1.0]), torch.full((2,), label)))


def test_accuracies_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    assert float(metrics.accuracy(logits, torch.tensor([0, 1, 1]))) == pytest.approx(2 / 3)
    right = metrics.binary_accuracy(torch.tensor([1.0, -1.0, 1.0, 1.0]), torch.tensor([1, 0, 0, 1]))
    assert float(right) == 0.75


def test_mean_squared_error_by_hand() -> None:
    # (1 + 9) / 2
    prediction, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    assert float(metrics.mean_squared_error(prediction, y)) == 5.0


@pytest.mark.parametrize(
    "metric", [metrics.roc_auc, metrics.balanced_accuracy, metrics.binary_accuracy]
)
def test_binary_metrics_pass_vmap(metric) -> None:
    logit, y = zip(*(scores(seed, False) for seed in range(3)), strict=True)
    batched = torch.func.vmap(metric)(torch.stack(logit), torch.stack(y))
    single = [float(metric(one, label)) for one, label in zip(logit, y, strict=True)]
    assert batched.tolist() == pytest.approx(single, abs=1e-15)


def test_mean_metrics_weighs_leaves_nan_out_and_keeps_infinity() -> None:
    # (1*1 + 3*2) / 3; b without its NaN is 4; c is undefined everywhere; a client diverged in d.
    values = {
        "a": [1.0, 3.0],
        "b": [math.nan, 4.0],
        "c": [math.nan, math.nan],
        "d": [1.0, math.inf],
    }
    assert metrics.mean_metrics(values, [1.0, 2.0]) == {"a": 7 / 3, "b": 4.0, "d": math.inf}


def test_a_model_that_diverged_gets_the_worst_there_is() -> None:
    assert metrics.ACCURACY.worst == 0
    assert metrics.MEAN_SQUARED_ERROR.worst == math.inf
