"""A run made ready in this process, up to its first round."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmaml.client.app import app as client_app
from fedmaml.client.node import NodeSetup, node_setup
from fedmaml.computing.engines import Job
from fedmaml.computing.evaluation import chunk_size as evaluation_chunk_size
from fedmaml.config import RunConfig, allow_own_code, to_run_config
from fedmaml.core.params import to_device
from fedmaml.preflight import choose_engine, preflight
from fedmaml.server.app import flower_strategy
from fedmaml.server.cohort import RollCall, choose
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.server.roll import call_roll
from fedmaml.server.rounds import clients_of_final_evaluation, times_due, validation_clients
from fedmaml.simulations.backends.in_process import InProcessGrid


@dataclass(frozen=True)
class Rehearsal:
    """A run that is ready for its first round; its nodes are here, whatever its back end.

    Attributes:
        config: What is to run.
        node: What a node needs to answer requests.
        grid: The way to the nodes.
        roll_call: Which node hosts which clients.
        server: The server's side.
        seconds: What it took to get ready, as far as a run counts it.
    """

    config: RunConfig
    node: NodeSetup
    grid: MeteredGrid
    roll_call: RollCall
    server: FlowerStrategy
    seconds: float

    def cohort(self, round: int) -> Sequence[int]:
        """Return the cohort of a round."""
        population = self.roll_call.population("train")
        return choose(self.config.seed, round, population, self.config.clients)

    def evaluated(self) -> dict[str, tuple[Sequence[int], int]]:
        """Return split -> the clients that the run will evaluate, and how often."""
        validation = validation_clients(self.roll_call, self.config)
        found: dict[str, tuple[Sequence[int], int]] = {
            "validation": (validation, times_due(self.config))
        }
        split = self.config.evaluation.split
        at_the_end = clients_of_final_evaluation(self.roll_call, self.config)
        found[split] = (at_the_end, found.get(split, ((), 0))[1] + 1)
        return {split: how for split, how in found.items() if how[0] and how[1]}

    def train_chunk(self, clients: int | None = None) -> int:
        """Return how many clients share a computation in training.

        Args:
            clients: Clients of a node in a request; None: the most that one process would take.
        """
        config, prepared = self.config, self.node.prepared
        meta = to_device(self.server.state.meta, prepared.device)
        job = Job(prepared.strategy, prepared.learner, meta)
        engine = choose_engine(config, job).engine
        if clients is None:
            return config.client_batch if config.client_batch > 1 else engine.client_batch(job)
        return engine.chunk_size(job, clients, config.workers, config.client_batch)

    def evaluation_batch(self, clients: int) -> int:
        """Return how many of a node's clients share a computation in an evaluation."""
        config, prepared = self.config, self.node.prepared
        meta = to_device(self.server.state.meta, prepared.device)
        job = Job(prepared.strategy, prepared.learner, meta)
        engine = "loop" if config.client_batch == 1 else config.engine
        return evaluation_chunk_size(job, engine, clients, config.workers, config.client_batch)


def rehearse(config: RunConfig) -> Rehearsal:
    """Do everything that a run does before its first round.

    Raises:
        FedmamlError: If strategy, scenario or data do not work; as `running.execute`.
    """
    allow_own_code()
    preflight(config)
    started = time.perf_counter()
    run_config = to_run_config(config, Path())
    grid = MeteredGrid(InProcessGrid(client_app, config.nodes, run_config))
    problem = config.make_problem()
    roll_call = call_roll(grid, config.nodes, config.timeout)
    server = flower_strategy(config, problem, roll_call)
    seconds = time.perf_counter() - started
    return Rehearsal(config, node_setup(run_config), grid, roll_call, server, seconds)
