"""The outcome of a run, as one JSON object."""

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import torch

from fedmaml.config import RunConfig
from fedmaml.core.costs import Cost
from fedmaml.core.counters import Counter, counted_json
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.params import MetaParams, flatten, sha256
from fedmaml.core.requests import EvaluateReply
from fedmaml.core.statistics import (
    Interval,
    bootstrap_interval,
    diverged,
    finite,
    mean_over_clients,
)
from fedmaml.energy import Energy
from fedmaml.server.figures import clients_by_family, figure_summaries
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.server.model_selection import Chosen
from fedmaml.simulations.returned import caveats_of
from fedmaml.simulations.scenario import HasClosedForm, Scenario
from fedmaml.strategies.base import kernel_spec

_MEASURED = {
    "totals": "training rounds only; evaluations and the roll call are beside them",
    "payload_bytes": "tensors that a site with one client receives and sends in a round",
    "message_bytes": "as Flower serialises the run's own messages to nodes (a node of a simulation "
    "hosts many clients), without HTTP and TLS; one message of each shape is serialised",
    "flops": "matrix products and convolutions of one client's update by itself, two per "
    "multiply-add, by torch.utils.flop_counter's formulas; counted once per shape of task",
    "peak_bytes": "most bytes of tensors that one client's update holds at a time beside its "
    "inputs, followed on every operation; kernels' own buffers are not seen",
    "evaluation": "of validation and test clients, before and after adaptation and at "
    "evaluation.steps; operations and memory of one client by itself, likewise",
    "seconds": "wall time; clients: waiting for replies, transport included; server: the rest",
}
"""How the numbers of ``cost`` were measured; written beside them."""


def summarise(
    config: RunConfig,
    problem: Problem,
    chosen: Chosen,
    evaluated: EvaluateReply,
    *,
    clients_train: int,
    updates_used: int,
    rejected_replies: int,
    clients_asked: int,
    planned: Mapping[str, int],
    engines: Mapping[str, int],
    cost: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Return the content of ``summary.json``."""
    headline, *others = problem.metrics
    split, scenario = config.evaluation.split, config.make_scenario()
    families = clients_by_family(scenario, evaluated)
    own = families[""].values
    return {
        "scenario": config.scenario,
        "about": scenario.about,
        **({"caveats": list(caveats)} if (caveats := caveats_of(scenario)) else {}),
        "strategy": config.strategy,
        "seed": config.seed,
        "rounds": config.rounds,
        "backend": config.backend,
        "nodes": config.nodes,
        "workers": config.workers,
        "device": config.device,
        "clients_train": clients_train,
        "evaluated_round": chosen.round,
        "selected_by": config.evaluation.select,
        "selected_validation": finite(chosen.validation),
        "evaluated_split": split,
        "clients_evaluated": len(evaluated.clients),
        "clients_asked": clients_asked,
        "clients_test": len(families[""].clients) if split == "test" else 0,
        "clients_test_asked": clients_asked if split == "test" else 0,
        "metric": _metric_summary(headline, headline.name, own),
        "metrics": [
            _metric_summary(metric, column, own) for metric in others for column in metric.columns
        ],
        "figures": figure_summaries(scenario, problem, families),
        "families": {name: len(members.clients) for name, members in families.items()},
        "theta_sha256": sha256(chosen.meta),
        **_distance_to_closed_form(config, chosen.meta),
        "updates_used": updates_used,
        "rejected_replies": rejected_replies,
        "seconds": round(seconds, 3),
        "engines": {"planned": dict(planned), "updates": dict(engines)},
        "peak_process_bytes": peak_process_bytes(),
        "cost": dict(cost),
        "versions": {name: version(name) for name in ("fedmaml", "flwr", "torch", "numpy")}
        | {"python": platform.python_version()},
    }


def cost_summary(
    cost: Cost,
    rounds: int,
    grid: MeteredGrid,
    evaluation: Cost,
    energy: Energy,
    counters: Sequence[Counter],
) -> dict[str, Any]:
    """Return the cost of rounds and evaluations, and how it was measured.

    Args:
        cost: Of the training rounds.
        rounds: Number of rounds.
        grid: Counted all messages.
        evaluation: Of all evaluations, those of validation clients during training included.
        energy: Of the whole run.
        counters: Of the problem.
    """
    return {
        "totals": cost.to_json(),
        "per_client_and_round": cost.per_client_and_round(),
        "per_message": cost.per_message(),
        "seconds_per_round": {
            "clients": cost.seconds_clients / rounds if rounds else None,
            "server": cost.seconds_server / rounds if rounds else None,
        },
        "evaluation": {
            **asdict(grid.traffic("evaluate")),
            "clients": evaluation.clients,
            "clients_measured": evaluation.updates_measured,
            "flops": evaluation.flops,
            "peak_bytes": evaluation.peak_bytes,
            **({"counters": counted_json(evaluation.counters)} if evaluation.counters else {}),
        },
        "roll_call": asdict(grid.traffic("query.roll_call")),
        "energy": energy.to_json(),
        "measured": dict(_MEASURED),
        **({"counters": {each.name: each.about for each in counters}} if counters else {}),
    }


def energy_of(measured: Energy, resumed_after: Sequence[int]) -> Energy:
    """Return the energy of a run; of a resumed one only the last part was measured."""
    if not resumed_after or measured.joules is None:
        return measured
    note = f"only what followed round {resumed_after[-1]}, after which the run was resumed"
    return replace(measured, note=f"{note}; {measured.note}")


def peak_process_bytes() -> int | None:
    """Return the most memory that this process ever held; None where there is no such count."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def client_rows(scenario: Scenario, evaluated: EvaluateReply) -> list[dict[str, Any]]:
    """Return one row per evaluated client: its groups and family, where it has some, and values."""
    return [
        {
            "client": client,
            **_labels(scenario, client),
            **{name: _plain(column[i]) for name, column in evaluated.values.items()},
        }
        for i, client in enumerate(evaluated.clients)
    ]


def _labels(scenario: Scenario, client: int) -> dict[str, Any]:
    groups, family = dict(scenario.groups(client)), scenario.family(client)
    return ({"groups": groups} if groups else {}) | ({"family": family} if family else {})


def _metric_summary(
    metric: Metric, column: str, found: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    stages = {
        name.partition(":")[2]: values
        for name, values in found.items()
        if name.partition(":")[0] == column
    }
    after, before = stages.get("after", []), stages.get("before", [])

    def interval(values: Sequence[float]) -> Interval | None:
        return metric.clipped(bootstrap_interval(values))

    at_steps, at_shots = (
        {
            stage.removeprefix(prefix): {"mean": _mean(values), "ci95": interval(values)}
            for stage, values in stages.items()
            if stage.startswith(prefix)
        }
        for prefix in ("after@", "shots@")
    )
    lost = {stage: diverged(values) for stage, values in stages.items() if diverged(values)}
    return {
        "name": column,
        "unit": metric.unit,
        "better": metric.better,
        "before": _mean(before),
        "after": _mean(after),
        "ci95": interval(after),
        "ci95_before": interval(before),
        **({"at_steps": at_steps} if at_steps else {}),
        **({"at_shots": at_shots} if at_shots else {}),
        **({"diverged": lost} if lost else {}),
    }


def _distance_to_closed_form(config: RunConfig, meta: MetaParams) -> dict[str, float]:
    """Return |theta - theta*| / |theta*| where the scenario has a formula for the strategy."""
    scenario, spec = config.make_scenario(), kernel_spec(config.make_strategy())
    if not isinstance(scenario, HasClosedForm) or isinstance(spec, str):
        return {}
    optimum = scenario.closed_form(spec)
    if optimum is None:
        return {}
    theta = flatten(meta["theta"]).to(torch.float64)
    return {"distance_to_closed_form": float((theta - optimum).norm() / optimum.norm())}


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean; None if it is undefined or infinite ("diverged" says so)."""
    return finite(mean_over_clients(values))


def _plain(value: float) -> float | str | None:
    """Return a value that JSON can hold: null if undefined, "diverged" if infinite."""
    if math.isnan(value):
        return None
    return "diverged" if math.isinf(value) else value
