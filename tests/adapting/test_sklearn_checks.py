"""scikit-learn's own checks of estimators, on a network that takes any number of columns.

A model of a run has the columns and classes of the run, and most checks bring others; so the run is
one whose network pools over columns. What still cannot hold is named with its reason.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from unittest import SkipTest

import pytest
import torch
from annotated_types import Gt
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import Tensor, nn

import fedmaml as fm
from fedmaml.adapting.estimators import SiteClassifier, SiteRegressor
from fedmaml.core import metrics, seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy, half_squared_error
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations.scenario import Recipes, Split

CLASSES = "it brings other labels than the run's classes 0, 1 and 2"
SCRATCH = "it wants a good fit to data of another kind than the run's, as if learned from scratch"
KNOWN = {
    "classification": {
        "check_dtype_object": CLASSES,
        "check_classifiers_classes": CLASSES,
        "check_classifiers_train": SCRATCH,
    },
    "regression": {"check_regressors_train": SCRATCH},
}
"""Checks that cannot hold, and why."""


class Pooled(nn.Module):
    """The mean over columns of an embedding of each."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Linear(1, 16)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x[..., None])).mean(1))


@settings
class AnyColumns(fm.Scenario):
    """Rows with any number of columns."""

    about: ClassVar[str] = "any number of columns"
    recipes: ClassVar[Recipes] = {"*": {"rounds": 20, "inner.lr": 0.1, "inner.steps": 50}}

    seed: int = 0
    kind: Literal["classification", "regression"] = "classification"
    columns: Annotated[int, Gt(0)] = 2

    def problem(self) -> Problem:
        if self.kind == "regression":
            return Problem(partial(Pooled, 1), half_squared_error, (metrics.RMSE,))
        return Problem(partial(Pooled, 3), cross_entropy, (metrics.ACCURACY,), classes=3)

    def clients(self) -> dict[Split, range]:
        return {"train": range(20), "validation": range(0), "test": range(20, 24)}

    def statistics(self, client: int) -> Params:
        return {}

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        drawn = seeding.key(self.seed, "any", split, round if split == "train" else 0)
        x = seeding.normal(drawn, clients, 40, self.columns)
        y = x.sum(-1)
        if self.kind == "classification":
            y = (y > 0.5).long() + (y > -0.5)
        task = Task(Batch(x[:, :20], y[:, :20]), Batch(x[:, 20:], y[:, 20:]))
        return [TaskGroup(tuple(clients), task)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checks")


@pytest.mark.slow
@pytest.mark.usefixtures("_catalogues_as_before")
@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn(kind: Any, folder: Path) -> None:
    run = fm.run(AnyColumns(kind=kind), "maml", out=folder / kind, inner_lr=0.1)
    estimator = run.estimator()
    assert type(estimator) is (SiteRegressor if kind == "regression" else SiteClassifier)
    found = dict(results(estimator))
    failed = {name: error for name, error in found.items() if error}
    assert {*failed} == {*KNOWN[kind]}, failed
    assert len(found) > 40


def results(estimator: Any) -> Iterator[tuple[str, str]]:
    """Yield each check and its error, without those that ask for another machine."""
    for one, check in estimator_checks_generator(estimator, mark=None):
        name = getattr(check, "func", check).__name__
        try:
            check(one)
        except SkipTest:
            continue
        except Exception as error:
            yield name, f"{type(error).__name__}: {error}"
        else:
            yield name, ""
