"""Everything a node builds once from a run's configuration and keeps between messages."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from fedmaml.client.replies import Method, make_method
from fedmaml.config import from_run_config
from fedmaml.simulations.scenario import Scenario

_BATCH_BYTES = 256 * 2**20
_MOST_CLIENTS = 1024


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
    entries = sum(value.numel() for value in method.learner.network.parameters())
    batch = config.client_batch or _default_batch(entries)
    return Workbench(config.make_scenario(), replace(method, client_batch=batch))


def _default_batch(entries: int) -> int:
    """Bound the memory of per-client weights: about eight copies of 8 bytes per entry."""
    return max(1, min(_MOST_CLIENTS, _BATCH_BYTES // (64 * max(entries, 1))))
