"""Fixtures that every test may use: a data folder, and problems small enough to check by hand."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error, squared_error
from fedmaml.core.metrics import ACCURACY, MEAN_SQUARED_ERROR
from fedmaml.core.networks import MLP, LinearModel
from fedmaml.core.tasks import Batch, Task
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so; the commands that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


class Example(NamedTuple):
    """A problem and tasks that suit it.

    Attributes:
        problem: In float64.
        tasks: Stacked, shape ``(clients, examples, ...)``.
    """

    problem: Problem
    tasks: Task

    def task(self, client: int = 0) -> Task:
        """Return one client's task."""
        return Task(*(Batch(*(value[client] for value in batch)) for batch in self.tasks))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with one folder per data set."""
    folder = Path(os.environ.get("FEDMAML_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data folder {folder}: name one with the environment variable FEDMAML_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _servers_write_to_temporary_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A ServerApp that no command of ours started may write there; here tests start them."""
    os.environ["FEDMAML_RUNS"] = str(tmp_path_factory.getbasetemp())


@pytest.fixture
def _catalogues_as_before() -> Iterator[None]:
    """Take out of the catalogues what a test put in."""
    before = {catalogue.group: list(catalogue) for catalogue in (SCENARIOS, STRATEGIES)}
    yield
    for catalogue in (SCENARIOS, STRATEGIES):
        for name in set(catalogue) - set(before[catalogue.group]):
            del catalogue[name]


@pytest.fixture
def classification() -> Example:
    """Five clients with three classes, which lie elsewhere at each client.

    6 support and 9 query examples of 4 features; classes in turn, so each has examples in both.
    """
    clients, examples = range(5), 15
    y = (torch.arange(examples) % 3).expand(len(clients), -1)
    centres = torch.eye(3, 4, dtype=torch.float64) * 2
    shift = 0.5 * seeding.normal(seeding.key(1, "shift"), clients, 1, 4)
    noise = 0.5 * seeding.normal(seeding.key(1, "noise"), clients, examples, 4)
    x = centres[y] + shift + noise
    problem = Problem(
        lambda: MLP((4, 6, 3), torch.tanh),
        lambda logits, y: cross_entropy(logits, y, reduction="none"),
        (ACCURACY,),
        classes=3,
        l2=0.01,
        dtype=torch.float64,
    )
    return Example(problem, Task(Batch(x[:, :6], y[:, :6]), Batch(x[:, 6:], y[:, 6:])))


@pytest.fixture
def regression(classification: Example) -> Example:
    """The clients of `classification`, with one target that is nearly linear in the inputs."""
    problem = replace(
        classification.problem,
        network=lambda: MLP((4, 6, 1), torch.tanh),
        loss=squared_error,
        metrics=(MEAN_SQUARED_ERROR,),
        classes=None,
    )
    tasks = (
        Batch(x, x[..., :1] - 0.5 * x[..., 1:2] + 0.3 * torch.sin(2 * x[..., 2:3]))
        for x, _ in classification.tasks
    )
    return Example(problem, Task(*tasks))


REGRESSORS = ("ridge_head", "empirical_bayes")
"""Strategies that take no classes."""

NEED_CLASSES = (
    "protonet", "matchingnet", "siamese", "relation", "meta_memory", "metanet", "r2d2",
)  # fmt: skip
"""Strategies that take nothing else."""

READ_TARGETS = ("cnp", "anp", "mann", "snail", "pearl")
"""Strategies that read the support's targets, one row for each example."""


@pytest.fixture
def example(name: str, classification: Example, regression: Example) -> Example:
    """An example that the strategy ``name`` takes."""
    return regression if name in REGRESSORS else classification


@pytest.fixture
def parabola() -> Example:
    """One client whose loss is (theta - c)^2 / 2 with c = 0: prediction theta * 1, target 0."""
    problem = Problem(
        lambda: LinearModel(1, 1, bias=False), half_squared_error, (), dtype=torch.float64
    )
    batch = Batch(torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    return Example(problem, Task(batch, batch))
