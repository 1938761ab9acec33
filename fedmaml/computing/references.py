"""References evaluated on the clients of a scenario: the same tasks and metrics as a strategy's.

All data must be on this machine, as in a simulation. If sites hold them, nothing here is called,
and no reference is evaluated.

    settings    every one of the grid is evaluated on the validation clients; the best is taken
    values      that one's metrics on the clients that evaluate strategies

Test tasks are made after all settings are chosen.
"""

import logging
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import torch

from fedmaml.computing.data_faults import of_finite_numbers, of_known_classes
from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError, FedmamlError
from fedmaml.core.learner import Learner, make_learner
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.records import Rejection
from fedmaml.core.statistics import mean_over_clients
from fedmaml.core.tasks import Batch, Task, cast, joined, unstack
from fedmaml.core.trees import Tree, named
from fedmaml.simulations.reference import (
    MAX_TRAINING_CLIENTS,
    Adapt,
    Reference,
    TrainingClients,
)
from fedmaml.simulations.returned import references_of
from fedmaml.simulations.scenario import Scenario, Split, totals_of

logger = logging.getLogger("fedmaml")

MAX_VALIDATION_CLIENTS = 100
"""Settings are chosen on at most this number of validation clients, the first ones."""

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluatedReference:
    """A reference and its results.

    Attributes:
        name: As the scenario names it.
        about: What it predicts.
        federated: Whether a federation could compute it.
        oracle: Whether it knows what no client can know.
        settings: The chosen settings of its grid.
        tuned_on: Number of validation clients for the choice; 0: there was no choice.
        clients: One row for each client: its number and its metrics by name; None where undefined,
            "diverged" where infinite.
    """

    name: str
    about: str
    federated: bool
    oracle: bool
    settings: Mapping[str, Any]
    tuned_on: int
    clients: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def evaluate_references(scenario: Scenario, dtype: torch.dtype) -> tuple[EvaluatedReference, ...]:
    """Evaluate a scenario's references on its test clients.

    Runs that differ in their strategy alone share the result, so a comparison pays once for a seed.

    Args:
        scenario: Names the references; its settings and seed determine the result.
        dtype: What a run computes in; tasks are rounded to it, as for strategies.

    Raises:
        ConfigurationError: If a reference raises or returns something else than predictions; names
            it, the client and the line.
    """
    references = references_of(scenario)
    _check(references)
    if not references:
        return ()
    try:
        hash(scenario)
    except TypeError:  # a setting is a list or a mapping: nothing to find it again by
        return _evaluated.__wrapped__(scenario, dtype)
    return _evaluated(scenario, dtype)


def fit_references(
    scenario: Scenario, settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Adapt]:
    """Return some of a scenario's references, fitted to its training clients.

    Args:
        scenario: Names the references.
        settings: Name of a reference -> its settings, e.g. `EvaluatedReference.settings`.
    """
    data = _Data(scenario, scenario.problem().dtype)
    named = {reference.name: reference for reference in references_of(scenario)}
    return {name: _fit(named[name], chosen, data) for name, chosen in settings.items()}


@lru_cache(maxsize=64)
def _evaluated(scenario: Scenario, dtype: torch.dtype) -> tuple[EvaluatedReference, ...]:
    data = _Data(scenario, dtype)
    fitted = [_tuned(reference, data) for reference in scenario.references()]
    return tuple(
        EvaluatedReference(
            name=chosen.reference.name,
            about=chosen.reference.about,
            federated=chosen.reference.federated,
            oracle=chosen.reference.oracle,
            settings=dict(chosen.settings),
            tuned_on=chosen.tuned_on,
            clients=tuple(
                {
                    "client": client,
                    **({"family": family} if (family := scenario.family(client)) else {}),
                    **{name: _plain(value) for name, value in row.items()},
                }
                for client, row in _values(chosen, data, data.test).items()
            ),
        )
        for chosen in fitted
    )


class _Data:
    """A scenario's tasks, each split made when it is first asked for."""

    def __init__(self, scenario: Scenario, dtype: torch.dtype) -> None:
        self.scenario = scenario
        self.clients = scenario.clients()
        self.problem = replace(scenario.problem(), dtype=dtype)

    def check_output(self, prediction: Tree, x: Tree, name: str, client: int) -> None:
        """Refuse predictions of another shape than the network's, which metrics would broadcast.

        Of a tree a reference predicts the entries that metrics take.
        """
        if self.problem.draws:  # the noise of its network is not drawn here
            return
        learner, theta = self._learner
        output = learner.apply(theta, x)
        if isinstance(output, dict) and isinstance(prediction, dict):
            output = {entry: value for entry, value in output.items() if entry in prediction}
        if (found := _shapes(prediction)) != (wanted := _shapes(output)):
            raise ConfigurationError(
                f"reference {name!r} predicts shape {found} at client {client}, and the network "
                f"{wanted}: let it predict what the network does"
            )

    @cached_property
    def _learner(self) -> tuple[Learner, Params]:
        return make_learner(self.problem, seeding.generator(0, "references"))

    @cached_property
    def statistics(self) -> Params:
        """Totals of the training clients' statistics, in client order."""
        return totals_of(self.scenario, self.clients["train"])

    @cached_property
    def training(self) -> tuple[Batch, ...]:
        """All examples of each training client."""
        clients = self.clients["train"][:MAX_TRAINING_CLIENTS]
        return tuple(joined(task) for task in self._tasks("train", clients).values())

    @cached_property
    def validation(self) -> dict[int, Task]:
        """Tasks that choose settings."""
        return self._tasks("validation", self.clients["validation"][:MAX_VALIDATION_CLIENTS])

    @cached_property
    def test(self) -> dict[int, Task]:
        """Tasks that evaluate."""
        return self._tasks("test", self.clients["test"])

    def _tasks(self, split: Split, clients: Sequence[int]) -> dict[int, Task]:
        """Return the tasks of the clients whose data can be used, as for strategies."""
        try:
            groups = self.scenario.tasks(split, clients, 1, self.statistics) if clients else []
        except Exception as error:  # a client's own data may be broken in any way
            if len(clients) == 1:
                logger.warning("client %d: %s", clients[0], type(error).__name__, exc_info=error)
                return {}
            parts = [self._tasks(split, [client]) for client in clients]
            return {client: task for part in parts for client, task in part.items()}
        faulty: list[Rejection] = []  # the evaluation of a strategy says so
        groups = of_known_classes(groups, self.problem.classes, faulty)
        groups = of_finite_numbers(groups, faulty)
        made = {client: task for group in groups for client, task in unstack(group).items()}
        return {client: cast(made[client], self.problem.dtype) for client in sorted(made)}


@dataclass(frozen=True)
class _Fitted:
    """A reference with its chosen settings."""

    reference: Reference
    settings: Mapping[str, Any]
    tuned_on: int
    adapt: Adapt


def _tuned(reference: Reference, data: _Data) -> _Fitted:
    """Return a reference with the setting that does best on the validation clients."""
    headline = data.problem.metrics[0]
    if len(reference.grid) == 1 or not data.validation:
        settings = reference.grid[0]
        return _Fitted(reference, settings, 0, _fit(reference, settings, data))
    best, best_value = None, math.nan
    for settings in reference.grid:
        fitted = _Fitted(reference, settings, len(data.validation), _fit(reference, settings, data))
        rows = _values(fitted, data, data.validation)
        value = _mean([row[headline.name] for row in rows.values()], headline)
        if best is None or value > best_value:
            best, best_value = fitted, value
    assert best is not None, "a grid has at least one setting"
    return best


def _mean(values: Sequence[float], metric: Metric) -> float:
    """Return the mean, larger is better; what is undefined everywhere is worse than anything."""
    mean = mean_over_clients(values)
    if mean is None:
        return -math.inf
    return mean if metric.better == "higher" else -mean


def _fit(reference: Reference, settings: Mapping[str, Any], data: _Data) -> Adapt:
    clients = TrainingClients(
        reference.name, reference.federated, data.statistics, lambda: data.training
    )
    return _guarded(reference, "in its fit", lambda: reference.fit(clients, **settings))


def _values(fitted: _Fitted, data: _Data, tasks: Mapping[int, Task]) -> dict[int, dict[str, float]]:
    """Return client -> metric -> value."""
    name, rows = fitted.reference.name, dict[int, dict[str, float]]()
    for client, task in tasks.items():
        prediction = _guarded(
            fitted.reference,
            f"at client {client}",
            lambda task=task: fitted.adapt(task.support)(task.query.x),  # type: ignore[misc]
        )
        if not rows:
            data.check_output(prediction, task.query.x, name, client)
        rows[client] = {
            column: float(value)
            for metric in data.problem.metrics
            for column, value in metric.values(prediction, task.query.y, data.statistics).items()
        }
    return rows


def _shapes(tree: Tree) -> object:
    shapes = {name: tuple(value.shape) for name, value in named(tree)}
    return shapes if isinstance(tree, dict) else shapes[""]


def _guarded(reference: Reference, where: str, function: Callable[[], T]) -> T:
    try:
        return function()
    except FedmamlError:
        raise
    except Exception as error:  # any error in the scenario's code
        *_, last = traceback.extract_tb(error.__traceback__)
        raise ConfigurationError(
            f"reference {reference.name!r} raised {type(error).__name__} {where}: {error} "
            f"({last.filename}:{last.lineno})"
        ) from error


def _check(references: Sequence[Reference]) -> None:
    names = [reference.name for reference in references]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError(
            f"two references are named {twice!r}: give one of them another name, e.g. with "
            "dataclasses.replace(reference, name=...)"
        )
    if empty := next((reference.name for reference in references if not reference.grid), None):
        raise ConfigurationError(
            f"reference {empty!r} has an empty grid: give at least one setting, e.g. ({{}},)"
        )


def _plain(value: float) -> float | str | None:
    """Return a value that JSON can hold: null if undefined, "diverged" if infinite."""
    if math.isnan(value):
        return None
    return "diverged" if math.isinf(value) else value
