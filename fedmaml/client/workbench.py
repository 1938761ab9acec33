"""Everything a node builds once from a run's configuration and keeps between messages."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from fedmaml.config import RunConfig, from_run_config
from fedmaml.core import seeding
from fedmaml.core.learner import Learner
from fedmaml.core.params import Params, count_entries
from fedmaml.simulations.scenario import Scenario
from fedmaml.strategies.base import MetaStrategy

_BATCH_BYTES = 256 * 2**20
_MOST_CLIENTS = 1024


@dataclass(frozen=True)
class Workbench:
    """What messages are answered with; attributes as returned by ``build``."""

    config: RunConfig
    scenario: Scenario
    strategy: MetaStrategy
    learner: Learner
    blank: Params
    client_batch: int


def workbench(run_config: Mapping[str, Any]) -> Workbench:
    """Return the workbench of a Flower run config; the same one for the same settings."""
    return _workbench(tuple(sorted(run_config.items())))


@lru_cache(maxsize=4)
def _workbench(items: tuple[tuple[str, Any], ...]) -> Workbench:
    torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
    config = from_run_config(dict(items))
    strategy = config.make_strategy()
    start = strategy.build(config.make_problem(), seeding.generator(config.seed, "init"))
    entries = count_entries(start.state.meta)
    return Workbench(
        config,
        config.make_scenario(),
        strategy,
        start.learner,
        start.memory,
        config.client_batch or _default_batch(entries),
    )


def _default_batch(entries: int) -> int:
    """Bound the memory of per-client weights: about eight copies of 8 bytes per entry."""
    return max(1, min(_MOST_CLIENTS, _BATCH_BYTES // (64 * max(entries, 1))))
