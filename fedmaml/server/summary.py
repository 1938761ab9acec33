"""The outcome of a run, as one JSON object."""

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from fedmaml.config import RunConfig
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.params import MetaParams, flatten, sha256
from fedmaml.core.statistics import bootstrap_interval, diverged, mean_over_clients
from fedmaml.messages.evaluate import EvaluateReply
from fedmaml.simulations.scenario import HasClosedForm


def summarise(
    config: RunConfig,
    problem: Problem,
    meta: MetaParams,
    judged: EvaluateReply,
    *,
    clients_train: int,
    rejected_replies: int,
    seconds: float,
) -> dict[str, Any]:
    """Put together what ``summary.json`` holds."""
    headline, *others = problem.metrics
    return {
        "scenario": config.scenario,
        "strategy": config.strategy,
        "seed": config.seed,
        "rounds": config.rounds,
        "backend": config.backend,
        "nodes": config.nodes,
        "clients_train": clients_train,
        "clients_test": len(judged.clients),
        "metric": _metric_summary(headline, judged.values),
        "metrics": [_metric_summary(metric, judged.values) for metric in others],
        "theta_sha256": sha256(meta),
        **_distance_to_closed_form(config, meta),
        "rejected_replies": rejected_replies,
        "seconds": round(seconds, 3),
        "versions": {name: version(name) for name in ("fedmaml", "flwr", "torch", "numpy")}
        | {"python": platform.python_version()},
    }


def client_rows(judged: EvaluateReply) -> list[dict[str, Any]]:
    """Return one row per test client."""
    return [
        {"client": client, **{name: _plain(column[i]) for name, column in judged.values.items()}}
        for i, client in enumerate(judged.clients)
    ]


def _metric_summary(metric: Metric, values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    stages = {
        name.partition(":")[2]: column
        for name, column in values.items()
        if name.partition(":")[0] == metric.name
    }
    after, before = stages.get("after", []), stages.get("before", [])
    at_steps = {
        stage.removeprefix("after@"): {"mean": _mean(column), "ci95": bootstrap_interval(column)}
        for stage, column in stages.items()
        if stage.startswith("after@")
    }
    lost = {stage: diverged(column) for stage, column in stages.items() if diverged(column)}
    return {
        "name": metric.name,
        "unit": metric.unit,
        "better": metric.better,
        "before": _mean(before),
        "after": _mean(after),
        "ci95": bootstrap_interval(after),
        "ci95_before": bootstrap_interval(before),
        **({"at_steps": at_steps} if at_steps else {}),
        **({"diverged": lost} if lost else {}),
    }


def _distance_to_closed_form(config: RunConfig, meta: MetaParams) -> dict[str, float]:
    """Return |theta - theta*| / |theta*| where the scenario has a formula for the strategy."""
    scenario = config.make_scenario()
    inner = config.options.get("inner")
    if not isinstance(scenario, HasClosedForm) or not inner:
        return {}
    optimum = scenario.closed_form(config.strategy, inner["lr"], inner["steps"])
    if optimum is None:
        return {}
    theta = flatten(meta["theta"]).to(torch.float64)
    return {"distance_to_closed_form": float((theta - optimum).norm() / optimum.norm())}


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean; None if it is undefined or infinite ("diverged" says so)."""
    mean = mean_over_clients(values)
    return mean if mean is not None and math.isfinite(mean) else None


def _plain(value: float) -> float | str | None:
    """Return a value that JSON can hold: null if undefined, "diverged" if infinite."""
    if math.isnan(value):
        return None
    return "diverged" if math.isinf(value) else value
