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
from fedmaml.core.statistics import bootstrap_interval, finite_mean
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
        stage.removeprefix("after@"): {
            "mean": finite_mean(column),
            "ci95": bootstrap_interval(column),
        }
        for stage, column in stages.items()
        if stage.startswith("after@")
    }
    return {
        "name": metric.name,
        "unit": metric.unit,
        "better": metric.better,
        "before": finite_mean(before),
        "after": finite_mean(after),
        "ci95": bootstrap_interval(after),
        "ci95_before": bootstrap_interval(before),
        **({"at_steps": at_steps} if at_steps else {}),
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


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
