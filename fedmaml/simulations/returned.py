"""What the methods of a scenario return, looked at before anything depends on it.

A scenario of one's own that returns something else is refused by the name of its method, and what
the method must return.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedmaml.core.errors import ConfigurationError
from fedmaml.core.figures import Figure
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.tasks import Task, TaskGroup, rows_of
from fedmaml.core.trees import leaves
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import SPLITS, Scenario, Split

T = TypeVar("T")


def problem_of(scenario: Scenario) -> Problem:
    """Return a scenario's problem.

    Raises:
        ConfigurationError: If it is none, or has no network to make, no loss, or no metric.
    """
    problem: Any = scenario.problem()
    if not isinstance(problem, Problem):
        raise _wrong("problem", problem, "return Problem(network, loss, metrics)")
    if isinstance(problem.network, torch.nn.Module) or not callable(problem.network):
        raise _wrong(
            "problem", problem.network, "network must make the network when it is called, e.g. "
            "lambda: MLP((1, 32, 1))"
        )  # fmt: skip
    if not callable(problem.loss):
        raise _wrong("problem", problem.loss, "loss must be a function of predictions and targets")
    metrics: Any = problem.metrics
    if not metrics or not _are(metrics, Metric):
        raise _wrong("problem", metrics, "metrics must be a tuple of Metric, e.g. (metrics.RMSE,)")
    return problem


def clients_of(scenario: Scenario) -> dict[Split, range]:
    """Return the client numbers of each split.

    Raises:
        ConfigurationError: If they are no ranges of numbers from 0, one after another.
    """
    clients: Any = scenario.clients()
    wanted = (
        'return a range of numbers for each split, e.g. {"train": range(80), "validation": '
        'range(80, 90), "test": range(90, 100)}'
    )
    if not isinstance(clients, dict) or set(clients) != set(SPLITS):
        raise _wrong("clients", clients, wanted)
    for split, found in clients.items():
        if not isinstance(found, range) or found.step != 1 or found.start < 0:
            shown = found if isinstance(found, range) else type(found).__name__
            raise _wrong("clients", clients, f"{split!r} is {shown}; {wanted}")
    return clients


def statistics_of(scenario: Scenario, client: int) -> Params:
    """Return the sums that a client sends once.

    Raises:
        ConfigurationError: If they are no float64 vectors by name.
    """
    found: Any = scenario.statistics(client)
    if not isinstance(found, dict) or not all(
        isinstance(value, Tensor) and value.dtype == torch.float64 and value.ndim == 1
        for value in found.values()
    ):
        raise _wrong("statistics", found, "return float64 vectors by name, {} for none")
    return found


def references_of(scenario: Scenario) -> tuple[Reference, ...]:
    """Return the predictors that no gradient trains.

    Raises:
        ConfigurationError: If they are none.
    """
    return _tuple_of(Reference, "references", scenario.references())


def figures_of(scenario: Scenario) -> tuple[Figure, ...]:
    """Return what a run is evaluated by beside its metrics.

    Raises:
        ConfigurationError: If they are none.
    """
    return _tuple_of(Figure, "figures", scenario.figures())


def groups_of(scenario: Scenario, client: int) -> Mapping[str, str]:
    """Return the groups of a test client.

    Raises:
        ConfigurationError: If they are no names by label.
    """
    found: Any = scenario.groups(client)
    if not isinstance(found, Mapping):
        raise _wrong("groups", found, 'return names by label, e.g. {"sex": "f"}, {} for none')
    for label, name in found.items():
        if not (isinstance(label, str) and isinstance(name, str)):
            raise ConfigurationError(
                f"groups({client}) of the scenario returned {{{label!r}: {name!r}}}: labels and "
                'names are str, e.g. {"ward": "3"}'
            )
    return found


def caveats_of(scenario: Scenario) -> tuple[str, ...]:
    """Return what a reader of results must know.

    Raises:
        ConfigurationError: If it is no tuple of sentences.
    """
    found: Any = scenario.caveats
    if not isinstance(found, tuple) or not _are(found, str):
        raise ConfigurationError(
            f"caveats of the scenario are {found!r}: they must be a tuple of sentences, "
            'caveats = ("One.",), with a comma for one'
        )
    return found


def left_out_of(scenario: Scenario) -> Mapping[str, str]:
    """Return the clients that cannot take part, and why.

    Raises:
        ConfigurationError: If they are no reasons by name.
    """
    found: Any = scenario.left_out()
    wanted = 'return reasons by client, e.g. {"ward 3": "no rows"}, {} for none'
    if not isinstance(found, Mapping):
        raise _wrong("left_out", found, wanted)
    for name, why in found.items():
        if not (isinstance(name, str) and isinstance(why, str) and why):
            raise ConfigurationError(
                f"left_out() of the scenario returned {{{name!r}: {why!r}}}: {wanted}"
            )
    return found


def as_asked(groups: object, clients: Sequence[int]) -> list[TaskGroup]:
    """Return what `Scenario.tasks` returned.

    Raises:
        ConfigurationError: If it is no list of groups of tasks, of the clients that were asked for.
    """
    if not isinstance(groups, list) or not _are(groups, TaskGroup):
        raise _wrong("tasks", groups, "return a list, [TaskGroup(clients, task)]")
    for group in groups:
        _check_tasks(group)
    told = sorted(client for group in groups for client in group.clients)
    if told != sorted(clients):
        raise ConfigurationError(
            f"tasks() was asked for clients {list(clients)}, and returned groups of clients "
            f"{[tuple(group.clients) for group in groups]}: every client belongs to one group"
        )
    return groups


def _check_tasks(group: TaskGroup) -> None:
    """Refuse tasks that are no stacks of examples, a row for each client."""
    task: Any = group.tasks
    wanted = "a task is Task(Batch(x, y), Batch(x, y)), of tensors (clients, examples, ...)"
    if not isinstance(task, Task):
        raise _wrong("tasks", task, wanted)
    for side in ("support", "query"):
        batch: Any = getattr(task, side)
        if not hasattr(batch, "x") or not hasattr(batch, "y"):
            raise _wrong("tasks", batch, f"{side}: {wanted}")
        for name in ("x", "y"):
            for leaf in leaves(getattr(batch, name)):
                if not isinstance(leaf, Tensor):
                    raise _wrong("tasks", leaf, f"{name} of {side}: {wanted}")
                if leaf.ndim < 2 or len(leaf) != len(group.clients):
                    raise ConfigurationError(
                        f"tasks() returned {name} of {side} of shape {tuple(leaf.shape)} for "
                        f"{len(group.clients)} clients: {wanted}"
                    )
    if not rows_of(task.query, 1):
        raise ConfigurationError("tasks() returned a query without examples: nothing to evaluate")


def _tuple_of(kind: type[T], method: str, found: Any) -> tuple[T, ...]:
    """Return what a method returned; refuse what is no tuple of a kind."""
    if not _are(found, kind):
        raise _wrong(method, found, f"return a tuple of {kind.__name__}, () for none")
    return tuple(found)


def _are(found: object, kind: type) -> bool:
    return isinstance(found, (tuple, list)) and all(isinstance(each, kind) for each in found)


def _wrong(method: str, found: object, wanted: str) -> ConfigurationError:
    what = type(found).__name__
    if isinstance(found, (tuple, list)):
        what += f" of {', '.join(sorted({type(each).__name__ for each in found})) or 'nothing'}"
    return ConfigurationError(f"{method}() of the scenario returned {what}: {wanted}")
