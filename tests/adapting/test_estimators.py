"""A run's model at a site: what it predicts, what adapting gains, and that it is an estimator."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from torch import Tensor, nn

import fedmaml as fm
from fedmaml.adapting.gain import Gain, gain_of
from fedmaml.adapting.model import model_of
from fedmaml.core.errors import ConfigurationError, DataError, UnsupportedProblemError
from tests.adapting.conftest import KINDS, Runs

pytestmark = pytest.mark.usefixtures("_catalogues_as_before")


@pytest.mark.parametrize("kind", KINDS)
def test_a_test_client_that_adapts_gets_what_the_run_evaluated(runs: Runs, kind: str) -> None:
    """The rows of a test client, its support and its query, through the estimator alone."""
    result = fm.load(runs.folder / kind)
    target, ignored = KINDS[kind]
    scenario = fm.Csv(data=str(runs.sites / "*.csv"), target=target, ignore=ignored)
    model = model_of(result.path)
    client = scenario.clients()["test"][0]
    task = scenario.tasks("test", [client], 1, model.shared_statistics)[0].tasks
    x = task.query.x[0].to(model.problem.dtype)
    predictor = model.adapted(task.support.x[0].to(model.problem.dtype), task.support.y[0])
    metric = model.problem.metrics[0]
    y = task.query.y[0].to(model.problem.dtype)
    value = metric.values(predictor(x), y, model.shared_statistics)[metric.name]
    row = next(row for row in result.clients().to_dict("records") if row["client"] == client)
    assert float(value) == pytest.approx(row[f"{metric.name}:after"], rel=1e-5)


def test_classes_probabilities_and_score(runs: Runs) -> None:
    frame, y = runs.site("classification")
    site = fm.load(runs.folder / "classification").adapt(frame, y)
    probabilities = site.predict_proba(frame)
    assert site.classes_.tolist() == ["ill", "well"]
    assert probabilities.shape == (60, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (site.predict(frame) == site.classes_[probabilities.argmax(1)]).all()
    assert site.score(frame, y) == (site.predict(frame) == y).mean() > 0.8
    shuffled = frame[["stage", "age", "days", "sex", "y"]]  # columns go by their names
    assert (site.predict_proba(shuffled) == probabilities).all()


def test_numbers_are_in_the_targets_own_unit(runs: Runs) -> None:
    frame, y = runs.site("regression")
    run = fm.load(runs.folder / "regression")
    adapted, unadapted = run.adapt(frame, y), run.adapt(frame, y, steps=0)
    errors = [float(np.sqrt(((one.predict(frame) - y) ** 2).mean())) for one in
              (adapted, unadapted)]  # fmt: skip
    assert errors[0] < errors[1] < y.std()
    assert unadapted.gain_.before == pytest.approx(errors[1], rel=1e-5)  # rmse, in days


def test_a_missing_number_is_the_training_clients_mean(runs: Runs) -> None:
    frame, y = runs.site("regression")
    site = fm.load(runs.folder / "regression").adapt(frame, y)
    mean = float(site.network_.mean[0])
    filled = frame.assign(age=frame["age"].fillna(mean))
    assert frame["age"].isna().any()
    np.testing.assert_allclose(site.predict(frame), site.predict(filled), rtol=1e-6)


def test_what_does_not_fit_is_named_by_column_and_row(runs: Runs) -> None:
    frame, y = runs.site("classification")
    run = fm.load(runs.folder / "classification")
    text = frame["age"].astype(object)
    text.iloc[3] = "4711-0815"
    for wrong, labels, message in (
        (frame.assign(age=text), y, r"column 'age', row 3: no number"),
        (frame.drop(columns="sex"), y, "lacks sex"),
        (frame, y.replace("ill", "unknown"), r"y, row \d+: a class that the model does not know"),
        (frame.to_numpy(), y, "give a pandas frame with the columns age, sex, stage"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            run.estimator().fit(wrong, labels)
        assert "4711" not in str(caught.value)


def test_adapting_that_gains_nothing_is_not_advised(runs: Runs) -> None:
    """A site at which the model is right but for noise: there is nothing to learn but noise."""
    frame, y = runs.site("regression")
    run = fm.load(runs.folder / "regression")
    right = run.adapt(frame, y, steps=0).predict(frame)
    noisy = right + np.random.default_rng(3).normal(size=len(y))
    gain = run.estimator().estimate_gain(frame, noisy)
    assert gain.advice.startswith("do not adapt: it gains nothing; the loss of a row rises by")
    without = run.estimator(steps=0).estimate_gain(frame, noisy)
    assert without.loss_before == without.loss_after == gain.loss_before
    assert without.advice.startswith("do not adapt")


def test_a_gain_is_that_of_held_back_rows(runs: Runs) -> None:
    """Each row's loss after adaptation is that of a model that did not see the row."""
    frame, y = runs.site("regression")
    site = fm.load(runs.folder / "regression").adapt(frame, y)
    model = site.model_
    inputs = site.network_.inputs(
        torch.tensor(np.column_stack([frame["age"], *(frame[name] == value for name, value in (
            ("sex", "f"), ("sex", "m"), ("stage", "I"), ("stage", "II"), ("stage", "III")))]))
    )  # fmt: skip
    mean, scale = site.network_.target
    targets = (torch.tensor(y.to_numpy()) - mean) / scale
    assert gain_of(model, inputs, targets) == site.gain_
    alone = gain_of(model, inputs[:4], targets[:4])  # four rows: each is a part of its own
    losses = []
    for row in range(4):
        others = [other for other in range(4) if other != row]
        predicted = model.adapted(inputs[others], targets[others])(inputs[row : row + 1])
        losses.append(float(model.problem.loss(predicted, targets[row : row + 1].float())))
    assert alone.loss_after == pytest.approx(np.mean(losses), rel=1e-6)
    assert alone.interval is not None
    assert site.gain_.advice.startswith("adapt: the loss of a row falls by")


def test_advice_names_what_is_not_known() -> None:
    unsure = Gain(9, 5, 0.5, 0.4, (-0.1, 0.3))
    assert unsure.advice.startswith("adapting may gain nothing, the interval reaches 0")
    assert Gain(9, 5, 0.5, None).advice.startswith("do not adapt: predictions")
    assert "not known: few" in Gain(2, why_none="few").advice


def test_an_estimator_works_with_the_tools_of_scikit_learn(runs: Runs) -> None:
    frame, y = runs.site("classification")
    estimator = fm.load(runs.folder / "classification").estimator(steps=2)
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(frame)
    assert cross_val_score(estimator, frame, y, cv=3).mean() > 0.7
    fitted = copy.fit(frame, y)
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict_proba(frame) == fitted.predict_proba(frame)).all()
    assert list(fitted.feature_names_in_) == ["age", "sex", "stage"]


def test_labels_keep_their_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = {name: (rng.normal(size=(20, 3)), rng.integers(3, size=20) + 1) for name in "abcdef"}
    run = fm.run(fm.from_clients(data), "fomaml", rounds=2, out=tmp_path / "run")
    x, y = data["a"]
    site = run.adapt(x, y)
    assert site.classes_.tolist() == [1, 2, 3]
    assert site.predict(x).dtype.kind == "i"
    with pytest.raises(ValueError, match="X has 2 features, but SiteClassifier is expecting 3"):
        site.predict(x[:, :2])
    with pytest.raises(DataError, match="X has 2 features, but the model takes 3"):
        run.estimator().fit(x[:, :2], y)


class Wide(nn.Module):
    """Images of 2 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (2, 4)
        return self.head(x.flatten(1))


def test_an_own_network_gets_inputs_in_their_shape(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = {name: (rng.normal(size=(12, 2, 4)), rng.normal(size=12)) for name in "abcdef"}
    run = fm.run(fm.from_clients(data, network=Wide), "reptile", rounds=2, out=tmp_path / "run")
    x, y = data["a"]
    assert run.adapt(x, y).predict(x).shape == (12,)
    with pytest.raises(DataError, match=r"an example of X has shape \(3, 4\), and the model takes"):
        run.estimator().fit(rng.normal(size=(12, 3, 4)), y)


@pytest.mark.parametrize(("scenario", "strategy"), [
    ("digits", "protonet"), ("digits", "meta_sgd"), ("sinusoid", "fedrep"), ("sinusoid", "local"),
])  # fmt: skip
def test_any_scenario_adapts_to_arrays(scenario: str, strategy: str, tmp_path: Path) -> None:
    small = {"test_clients": 2, "validation_clients": 0} if scenario == "digits" else {}
    run = fm.run(scenario, strategy, rounds=0 if strategy == "local" else 1, clients=2,
                 out=tmp_path / "run", **small)  # fmt: skip
    made = (
        fm.Digits(test_clients=2, validation_clients=0) if scenario == "digits" else fm.Sinusoid()
    )
    client = made.clients()["test"][0]
    support, query = made.tasks("test", [client], 1, {})[0].tasks
    x, y = support.x[0].numpy(), support.y[0].flatten().numpy()
    site = run.adapt(x, y)
    assert len(site.predict(query.x[0].numpy())) == len(query.y[0])
    evaluated = {row["client"]: row for row in run.clients().to_dict("records")}
    name = run.summary["metric"]["name"]
    predicted = site.network_.raw(query.x[0].float())
    value = site.model_.problem.metrics[0].values(predicted, query.y[0], {})[name]
    assert float(value) == pytest.approx(evaluated[client][f"{name}:after"], rel=1e-4)
    if strategy == "protonet":
        assert "ProtoNet has no model without adaptation" in site.gain_.advice
        with pytest.raises(ConfigurationError, match="ProtoNet adapts without steps"):
            run.estimator(steps=2).fit(x, y)
    before = run.summary["metric"]["before"]
    assert (site.gain_.loss_before is None) == (before is None)


def test_a_model_with_noise_is_refused(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from fedmaml.adapting import model
    from fedmaml.simulations import tabular

    made = tabular.problem

    def noisy(*given: object) -> object:
        return replace(made(*given), draws={"noise": lambda *_: torch.zeros(1)})  # type: ignore[arg-type]

    monkeypatch.setattr(tabular, "problem", noisy)
    model._read.cache_clear()
    with pytest.raises(UnsupportedProblemError, match="draws noise for every client"):
        fm.load(runs.folder / "regression").estimator()
    model._read.cache_clear()
