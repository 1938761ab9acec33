"""A scenario's figures over the clients of one run, for each family of clients."""

import logging
from collections.abc import Mapping
from typing import Any

from fedmaml.core.figures import Clients, Figure, clients_table, of_family
from fedmaml.core.learner import Problem
from fedmaml.core.requests import EvaluateReply
from fedmaml.core.resampling import figure_interval, resample, why_no_interval
from fedmaml.core.statistics import finite
from fedmaml.simulations.scenario import Scenario

logger = logging.getLogger("fedmaml")


def clients_by_family(scenario: Scenario, evaluated: EvaluateReply) -> dict[str, EvaluateReply]:
    """Return the evaluated clients of each family; the scenario's own, "", come first."""
    families: dict[str, list[int]] = {"": []}
    for position, client in enumerate(evaluated.clients):
        families.setdefault(scenario.family(client), []).append(position)
    return {
        family: EvaluateReply(
            tuple(evaluated.clients[i] for i in positions),
            {name: [values[i] for i in positions] for name, values in evaluated.values.items()},
            (),
        )
        for family, positions in families.items()
    }


def figure_summaries(
    scenario: Scenario, problem: Problem, families: Mapping[str, EvaluateReply]
) -> list[dict[str, Any]]:
    """Return the entry of ``summary.json`` for each figure.

    The means of metrics over the scenario's own clients are elsewhere in the summary; those of
    other families are here.

    Args:
        scenario: Declares figures and groups.
        problem: Declares metrics.
        families: The evaluated clients by family.
    """
    return [
        {**_summary(figure, problem, scenario, found), "family": family}
        for family, found in families.items()
        if found.clients
        for figure in of_family(scenario.figures(), problem.metrics, family)
    ]


def _summary(
    figure: Figure, problem: Problem, scenario: Scenario, found: EvaluateReply
) -> dict[str, Any]:
    table = {stage: _table(problem, scenario, found, stage) for stage in ("before", "after")}
    try:
        after = resample(figure, table["after"])
        before = figure(table["before"])
    except Exception as error:  # a scenario's figure may raise anything; the run is still valid
        why = f"its function raises {type(error).__name__}: {error}"
        logger.warning("figure %r is left out: %s", figure.name, why)
        return {**_about(figure), "before": None, "after": None, "ci95": None, "units": 0,
                "why": why}  # fmt: skip
    return {
        **_about(figure),
        "before": finite(before),
        "after": finite(after.value),
        "ci95": figure_interval([after], least=figure.least),
        "units": after.units,
        "why": why_no_interval(figure, after.units),
    }


def _about(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "unit": figure.unit,
        "better": figure.better,
        "resampled": figure.resampled,
    }


def _table(problem: Problem, scenario: Scenario, found: EvaluateReply, stage: str) -> Clients:
    groups = [scenario.groups(client) for client in found.clients]
    return clients_table(found.clients, found.values, problem.metrics, groups, stage)
