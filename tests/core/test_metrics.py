"""Metrics against scikit-learn, for every layout of one column and of many; NaN if undefined."""

import math
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from sklearn.calibration import calibration_curve

from fedmaml.core import metrics, seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.metrics import Metric

CLASSES = 4

SEEDS = pytest.mark.parametrize("seed", range(3))
TIES = pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
LAYOUTS = pytest.mark.parametrize(
    ("of_scores", "of_targets"),
    [((40,), (40,)), ((40, 1), (40,)), ((40, 1), (40, 1)), ((40,), (40, 1))],
    ids=["n,n", "n1,n", "n1,n1", "n,n1"],
)


def binary(seed: int, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    logit = seeding.normal(seeding.key(seed, "logit"), [0], 40)[0]
    y = (seeding.uniform(seeding.key(seed, "y"), [0], 40)[0] < 0.3).double()
    return (logit.mul(2).round() if ties else logit), y


def several(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    logits = seeding.normal(seeding.key(seed, "logits"), [0], 40 * CLASSES)[0]
    y = (seeding.uniform(seeding.key(seed, "y"), [0], 40)[0] * CLASSES).long()
    return logits.reshape(40, CLASSES), y


def columns(seed: int, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = seeding.normal(seeding.key(seed, "columns"), [0], 2 * 40 * count)[0]
    prediction, noise = drawn.reshape(2, 40, count)
    return prediction, prediction + noise * torch.arange(1.0, count + 1)


def probability(logits: torch.Tensor) -> np.ndarray:
    return (logits.sigmoid() if logits.ndim == 1 else logits.softmax(-1)).numpy()


def calibration_error_by_scikit_learn(right: np.ndarray, confidence: np.ndarray) -> float:
    """Return the mean gap of scikit-learn's reliability curve, weighted by the bins' examples."""
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    count = np.histogram(confidence, np.linspace(0, 1, 11))[0]
    return float((np.abs(accuracy - mean) * count[count > 0]).sum() / len(right))


BINARY = {
    "accuracy": (metrics.accuracy, lambda s, y: sk.accuracy_score(y, s > 0)),
    "balanced": (metrics.balanced_accuracy, lambda s, y: sk.balanced_accuracy_score(y, s > 0)),
    "f1": (metrics.f1, lambda s, y: sk.f1_score(y, s > 0)),
    "log loss": (metrics.log_loss, lambda s, y: sk.log_loss(y, probability(s))),
    "auc": (metrics.roc_auc, lambda s, y: sk.roc_auc_score(y, s)),
    "ap": (metrics.average_precision, lambda s, y: sk.average_precision_score(y, s)),
    "calibration": (
        metrics.expected_calibration_error,
        lambda s, y: calibration_error_by_scikit_learn(
            ((s > 0) == (y > 0.5)).numpy(), np.maximum(probability(s), 1 - probability(s))
        ),
    ),
}
SEVERAL = {
    "accuracy": (metrics.accuracy, lambda s, y: sk.accuracy_score(y, s.argmax(1))),
    "balanced": (
        metrics.balanced_accuracy, lambda s, y: sk.balanced_accuracy_score(y, s.argmax(1)),
    ),
    "f1": (metrics.f1, lambda s, y: sk.f1_score(y, s.argmax(1), average="macro")),
    "log loss": (metrics.log_loss, lambda s, y: sk.log_loss(y, probability(s))),
    "auc": (
        metrics.roc_auc, lambda s, y: sk.roc_auc_score(y, probability(s), multi_class="ovr"),
    ),
    "ap": (
        metrics.average_precision, lambda s, y: sk.average_precision_score(y, probability(s)),
    ),
    "calibration": (
        metrics.expected_calibration_error,
        lambda s, y: calibration_error_by_scikit_learn(
            (s.argmax(1) == y).numpy(), probability(s).max(1)
        ),
    ),
}  # fmt: skip
NUMBERS = {
    "mse": (metrics.mean_squared_error, sk.mean_squared_error),
    "rmse": (metrics.root_mean_squared_error, sk.root_mean_squared_error),
    "mae": (metrics.mean_absolute_error, sk.mean_absolute_error),
    "r2": (metrics.r2, sk.r2_score),
}


@SEEDS
@TIES
@LAYOUTS
@pytest.mark.parametrize("name", BINARY)
def test_one_column_equals_scikit_learn(name, of_scores, of_targets, ties, seed) -> None:
    function, theirs = BINARY[name]
    logit, y = binary(seed, ties)
    found = function(logit.reshape(of_scores), y.reshape(of_targets))
    assert float(found) == pytest.approx(theirs(logit, y), abs=1e-12)


@SEEDS
@pytest.mark.parametrize("name", SEVERAL)
def test_several_classes_equal_scikit_learn(name, seed) -> None:
    function, theirs = SEVERAL[name]
    assert float(function(*several(seed))) == pytest.approx(theirs(*several(seed)), abs=1e-12)


@SEEDS
@pytest.mark.parametrize("name", NUMBERS)
def test_columns_of_numbers_equal_scikit_learn(name, seed) -> None:
    function, theirs = NUMBERS[name]
    prediction, y = columns(seed)
    assert float(function(prediction, y)) == pytest.approx(theirs(y, prediction), abs=1e-12)


@LAYOUTS
@pytest.mark.parametrize("name", NUMBERS)
def test_one_column_of_numbers_equals_scikit_learn(name, of_scores, of_targets) -> None:
    function, theirs = NUMBERS[name]
    prediction, y = (part[:, 0] for part in columns(0, 1))
    found = function(prediction.reshape(of_scores), y.reshape(of_targets))
    assert float(found) == pytest.approx(theirs(y, prediction), abs=1e-12)


@pytest.mark.parametrize("name", NUMBERS)
def test_other_columns_than_targets_are_refused(name) -> None:
    with pytest.raises(UnsupportedProblemError, match="2 columns for 5 examples, targets 1 for 5"):
        NUMBERS[name][0](torch.zeros(5, 2), torch.zeros(5))


@pytest.mark.parametrize("name", [*BINARY, *NUMBERS])
def test_one_column_passes_vmap(name) -> None:
    function = (BINARY | NUMBERS)[name][0]
    logit, y = map(torch.stack, zip(*(binary(seed) for seed in range(3)), strict=True))
    batched = torch.func.vmap(function)(logit[..., None], y)
    single = [float(function(*one)) for one in zip(logit, y, strict=True)]
    assert batched.tolist() == pytest.approx(single, abs=1e-14)


@pytest.mark.parametrize("name", SEVERAL)
def test_several_classes_pass_vmap(name) -> None:
    function = SEVERAL[name][0]
    logits, y = map(torch.stack, zip(*(several(seed) for seed in range(3)), strict=True))
    batched = torch.func.vmap(function)(logits, y)
    single = [float(function(*one)) for one in zip(logits, y, strict=True)]
    assert batched.tolist() == pytest.approx(single, abs=1e-14)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("metric", [metrics.roc_auc, metrics.balanced_accuracy])
def test_one_class_alone_gives_nan(metric, label: float) -> None:
    assert math.isnan(metric(torch.tensor([1.0, -1.0]), torch.full((2,), label)))


def test_what_has_no_positives_or_no_spread_is_nan() -> None:
    negative = torch.tensor([-1.0, -2.0])
    assert math.isnan(metrics.f1(negative, torch.zeros(2)))
    assert math.isnan(metrics.average_precision(negative, torch.zeros(2)))
    assert math.isnan(metrics.r2(negative, torch.ones(2)))
    assert math.isnan(metrics.precision_at(3)(negative, torch.zeros(2)))


def test_absent_classes_are_left_out() -> None:
    # Classes 0 and 1 have the recalls 1/2 and 1; class 2 is predicted, but nobody's target.
    logits = torch.eye(3)[[0, 2, 1]]
    assert float(metrics.balanced_accuracy(logits, torch.tensor([0, 0, 1]))) == 0.75


def test_pixels_and_nodes_count_as_examples() -> None:
    logits, y = several(0)
    assert metrics.accuracy(logits.reshape(8, 5, CLASSES), y.reshape(8, 5)) == metrics.accuracy(
        logits, y
    )


def test_accuracies_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    assert float(metrics.accuracy(logits, torch.tensor([0, 1, 1]))) == pytest.approx(2 / 3)
    right = metrics.accuracy(torch.tensor([1.0, -1.0, 1.0, 1.0]), torch.tensor([1, 0, 0, 1]))
    assert float(right) == 0.75


def test_mean_squared_error_by_hand() -> None:
    # (1 + 9) / 2
    prediction, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    assert float(metrics.mean_squared_error(prediction, y)) == 5.0


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_precision_at_k_by_hand(shape) -> None:
    # By score: 3 (+), 2 (-), 1 (+, first of two), 1 (-), 0 (+).
    score, y = torch.tensor([1.0, 3.0, 2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])
    found = [float(metrics.precision_at(k)(score.reshape(shape), y)) for k in (1, 2, 3, 4)]
    assert found == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])


def test_confusion_by_hand() -> None:
    logit, y = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0]), torch.tensor([1, 1, 0, 1, 0, 0])
    found = metrics.CONFUSION.values(logit[:, None], y, {})
    assert {name: float(value) for name, value in found.items()} == {
        "confusion/tp": 2, "confusion/fp": 1, "confusion/fn": 1, "confusion/tn": 2,
    }  # fmt: skip


# --- what a metric declares


def test_a_scale_brings_values_back_to_the_targets_unit() -> None:
    # Errors 1 and 3 standard deviations; mean 2. A deviation is 4 days, or sqrt(32 / 2) of them.
    prediction, y = torch.tensor([1.0, 3.0]), torch.zeros(2)
    in_days = replace(metrics.MAE, unit="days", scale=4.0)
    assert float(in_days.values(prediction, y, {})["mae"]) == 8.0
    shared_statistics = {"squares": torch.tensor(32.0), "count": torch.tensor(2.0)}
    from_totals = replace(
        in_days, scale=lambda shared: float((shared["squares"] / shared["count"]).sqrt())
    )
    assert float(from_totals.values(prediction, y, shared_statistics)["mae"]) == 8.0


def test_predictions_and_targets_may_be_trees() -> None:
    distance = Metric(
        "distance", "m", "lower", math.inf, lambda p, y: (p["end"] - y["end"]).abs().mean()
    )
    y = {"end": torch.zeros(2)}
    sound = {"end": torch.ones(2), "path": torch.ones(2, 3)}
    broken = sound | {"path": torch.full((2, 3), math.nan)}
    assert float(distance.values(sound, y, {})["distance"]) == 1.0
    assert float(distance.values(broken, y, {})["distance"]) == math.inf


def test_cells_have_columns_of_their_own() -> None:
    daily = Metric("return", "1", "higher", math.nan, lambda p, _y: {"mon": p[0], "tue": p[1]},
                   ("mon", "tue"))  # fmt: skip
    found = daily.values(torch.tensor([0.1, 0.2]), torch.zeros(2), {})
    assert daily.columns == tuple(found) == ("return/mon", "return/tue")
    assert metrics.ACCURACY.columns == ("accuracy",)


@pytest.mark.parametrize(
    ("cells", "returned"),
    [
        ((), lambda p, _y: p),
        ((), lambda p, _y: {"a": p.mean()}),
        (("a", "b"), lambda p, _y: {"a": p.mean()}),
        (("a", "b"), lambda p, _y: {"b": p.mean(), "a": p.mean()}),
        (("a",), lambda p, _y: p.mean()),
    ],
)
def test_a_metric_that_returns_what_it_does_not_declare_is_refused(cells, returned) -> None:
    metric = Metric("m", "1", "higher", 0.0, returned, cells)
    with pytest.raises(UnsupportedProblemError, match="metric 'm' returned"):
        metric.values(torch.zeros(3), torch.zeros(3), {})


def test_a_model_that_diverged_gets_the_worst_there_is() -> None:
    broken, y = torch.tensor([[math.nan, 1.0]]), torch.tensor([1])
    assert float(metrics.ACCURACY.values(broken, y, {})["accuracy"]) == 0
    assert float(metrics.LOG_LOSS.values(broken, y, {})["log_loss"]) == math.inf
    assert float(metrics.RMSE.values(broken[:, 0], y, {})["rmse"]) == math.inf


def test_mean_metrics_weighs_leaves_nan_out_and_keeps_infinity() -> None:
    # (1*1 + 3*2) / 3; b without its NaN is 4; c is undefined everywhere; a client diverged in d.
    values = {
        "a": [1.0, 3.0],
        "b": [math.nan, 4.0],
        "c": [math.nan, math.nan],
        "d": [1.0, math.inf],
    }
    assert metrics.mean_metrics(values, [1.0, 2.0]) == {"a": 7 / 3, "b": 4.0, "d": math.inf}


@pytest.mark.parametrize(
    ("metric", "interval", "expected"),
    [
        (metrics.ACCURACY, (0.5, 1.125), (0.5, 1.0)),
        (metrics.ACCURACY, (-0.25, 0.5), (0.0, 0.5)),
        (metrics.ACCURACY, None, None),
        (replace(metrics.RMSE, scale=4.2), (-1.0, 99.0), (0.0, 99.0)),
        (replace(metrics.RMSE, scale=lambda _: 4.2), (-1.0, 99.0), (0.0, 99.0)),
        (replace(metrics.ACCURACY, scale=100), (90.0, 112.5), (90.0, 100.0)),
        (replace(metrics.ACCURACY, scale=lambda _: 100), (90.0, 112.5), (90.0, 112.5)),
        (replace(metrics.R2, worst=-9.0), (-10.0, 1.5), (-10.0, 1.0)),
        (replace(metrics.ACCURACY, worst=-1.0), (-2.0, 1.5), (-1.0, 1.0)),
    ],
)
def test_an_interval_ends_where_a_metric_does(metric, interval, expected) -> None:
    assert metric.clipped(interval) == expected
