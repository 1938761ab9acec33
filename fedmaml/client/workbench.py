"""Everything a node builds once from a run's configuration and keeps between messages."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from fedmaml.client.replies import Method, make_method
from fedmaml.config import from_run_config
from fedmaml.simulations.scenario import Scenario


@dataclass(frozen=True)
class Workbench:
    """What a node works with.

    Attributes:
        scenario: Where tasks come from.
        method: What turns them into updates.
    """

    scenario: Scenario
    method: Method


def workbench(run_config: Mapping[str, Any]) -> Workbench:
    """Return the workbench of a Flower run config; the same one for the same settings."""
    return _workbench(tuple(sorted(run_config.items())))


@lru_cache(maxsize=4)
def _workbench(items: tuple[tuple[str, Any], ...]) -> Workbench:
    torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
    config = from_run_config(dict(items))
    method = make_method(config.make_strategy(), config.make_problem(), config.seed)
    method = replace(method, client_batch=config.client_batch, engine=config.engine)
    return Workbench(config.make_scenario(), method)
