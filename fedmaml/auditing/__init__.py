"""Leakage audit: searches data and code for what makes a result look better than it is.

    sample       clients and rounds to look at, and keys by which examples are compared
    examples     who holds which examples: support and query, clients, splits
    repeats      equal examples: the same one twice, or twins in the data
    statistics   what inputs were centred with
    predictions  what predictions depend on, tried on `adapt`

Each check is a function that returns an `Audit`; `audit` runs them all.
docs/auditing.md says what each finds, what it cannot find, and what to do.
"""

from collections.abc import Callable, Collection

from fedmaml.auditing.examples import (
    clients_seen_in_training,
    examples_trained_on,
    overlap_in_tasks,
    shared_between_clients,
    support_query_overlap,
)
from fedmaml.auditing.predictions import dependent_predictions
from fedmaml.auditing.repeats import Repeats, repeats_of
from fedmaml.auditing.sample import IN_A_RUN, THOROUGH, Extent, Sample, draw, keys_of
from fedmaml.auditing.statistics import statistics_from_evaluated_clients
from fedmaml.core.findings import (
    KINDS,
    Audit,
    Checked,
    Finding,
    NotChecked,
    Severity,
    audit_from_json,
)
from fedmaml.core.learner import Problem
from fedmaml.core.tasks import Task
from fedmaml.simulations.scenario import SPLITS, Scenario, Split
from fedmaml.strategies.base import MetaStrategy

__all__ = [
    "IN_A_RUN",
    "KINDS",
    "THOROUGH",
    "Audit",
    "Checked",
    "Extent",
    "Finding",
    "NotChecked",
    "Repeats",
    "Sample",
    "Severity",
    "audit",
    "audit_data",
    "audit_from_json",
    "audit_task",
    "clients_seen_in_training",
]

CHECKS: tuple[Callable[[Sample], Audit], ...] = (
    overlap_in_tasks,
    examples_trained_on,
    shared_between_clients,
    statistics_from_evaluated_clients,
)
"""The checks that need data; those of clients and predictions need other inputs."""


def audit(
    scenario: Scenario,
    strategy: MetaStrategy,
    problem: Problem,
    seed: int,
    extent: Extent = THOROUGH,
) -> Audit:
    """Run every check.

    Raises:
        FedmamlError: If there are no data, or the strategy cannot work on the problem.
    """
    populations = scenario.clients()
    seen = clients_seen_in_training(populations, populations["train"])
    everything = seen + audit_data(scenario, strategy, problem, seed, extent)
    return everything.expecting(scenario.expected)


def audit_data(
    scenario: Scenario,
    strategy: MetaStrategy,
    problem: Problem,
    seed: int,
    extent: Extent,
    splits: Collection[Split] = SPLITS,
) -> Audit:
    """Run every check except that of clients, which a run makes on its real cohorts.

    Args:
        scenario: Makes the tasks.
        strategy: Its predictions are tested.
        problem: The scenario's, in the dtype of the run.
        seed: Determines the sampled clients.
        extent: How much to look at.
        splits: Splits whose data may be read: a run that tunes settings leaves test clients unseen.

    Raises:
        FedmamlError: If there are no data, or the strategy cannot work on the problem.
    """
    sample = draw(scenario, seed, problem.dtype, extent, splits)
    found = sum((check(sample) for check in CHECKS), Audit())
    split: Split = "test" if sample.tasks["test"] else "validation"
    found += dependent_predictions(
        strategy, problem, seed, sample.tasks[split], len(sample.populations[split])
    )
    for split in set(SPLITS) - set(splits):
        why = f"{split} clients are left unseen (evaluation.split)"
        found += Audit((), (), (NotChecked("duplicates-across-clients", why),))
    if sample.unreadable:
        why = f"the data of clients {', '.join(map(str, sample.unreadable[:20]))} cannot be read"
        found += Audit((), (), (NotChecked("support-query-overlap", why),))
    return found.expecting(scenario.expected)


def audit_task(task: Task, client: int = 0) -> Finding | None:
    """Return the finding if one client's task has support examples in its query.

    For apps whose data live at their sites: each site can check its own.
    """
    return support_query_overlap({client: repeats_of([keys_of(task)])}, "one task")
