"""What a node builds once from the run configuration and keeps between messages."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from fedmaml.client.replies import PreparedStrategy, prepared_from
from fedmaml.computing.chunks import Tasks
from fedmaml.computing.engines import Job, plan
from fedmaml.config import from_run_config
from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.params import Params, to_device
from fedmaml.simulations.scenario import SPLITS, Scenario


@dataclass(frozen=True)
class NodeSetup:
    """What a node needs to answer requests.

    Attributes:
        scenario: Makes the tasks.
        prepared: The strategy, which computes updates from them.
        workers: Processes that share the work.
        engine: Which engine computes updates, and why.
        timeout: Seconds that the server waits for a reply.
    """

    scenario: Scenario
    prepared: PreparedStrategy
    workers: int = 1
    engine: str = ""
    timeout: float = math.inf

    def tasks(self, split: str, round: int, shared_statistics: Params) -> Tasks:
        """Return a function that makes tasks; arguments as in `Scenario.tasks`."""
        known = next(name for name in SPLITS if name == split)
        return lambda clients: self.scenario.tasks(known, clients, round, shared_statistics)


def node_setup(run_config: Mapping[str, Any]) -> NodeSetup:
    """Return the node setup of a Flower run config; the same object for the same settings."""
    return _node_setup(tuple(sorted(run_config.items())))


@lru_cache(maxsize=4)
def _node_setup(items: tuple[tuple[str, Any], ...]) -> NodeSetup:
    torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
    config = from_run_config(dict(items))
    strategy, device = config.make_strategy(), find_device(config.device)
    start = strategy.build(config.make_problem(), seeding.generator(config.seed, "init"))
    prepared = prepared_from(strategy, start, config.client_batch, config.engine, device)
    job = Job(strategy, prepared.learner, to_device(start.state.meta, device))
    chosen = plan("loop" if config.client_batch == 1 else config.engine, job)
    return NodeSetup(config.make_scenario(), prepared, config.workers, str(chosen), config.timeout)


def find_device(name: str) -> torch.device:
    """Return a device by name.

    Raises:
        ConfigurationError: If there is none; names cause and cure.
    """
    if name != "cpu" and not torch.cuda.is_available():
        cause = (
            "PyTorch finds no GPU: see whether `nvidia-smi` lists one, and whether "
            "CUDA_VISIBLE_DEVICES hides it"
            if torch.version.cuda
            else f"this PyTorch ({torch.__version__}) was built without CUDA: install one that was "
            "(https://pytorch.org/get-started)"
        )
        raise ConfigurationError(f"device = {name!r}: {cause}; or compute with --device cpu")
    return torch.device(name)
