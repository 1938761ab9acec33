"""The ServerApp: configuration in, run directory out."""

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedmaml.config import RunConfig, from_run_config
from fedmaml.core.costs import Cost
from fedmaml.core.learner import Problem
from fedmaml.core.params import Params
from fedmaml.energy import EnergyMeter
from fedmaml.messages.memories import read_memories
from fedmaml.runs.directory import TOKEN, RunDirectory, new_directory
from fedmaml.runs.references import against_references
from fedmaml.runs.state import RunState
from fedmaml.server.aggregate import robust_rule
from fedmaml.server.audit import audited
from fedmaml.server.cohort import RollCall, call_roll
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.server.model_selection import Chosen, better, candidate
from fedmaml.server.rounds import clients_of_final_evaluation, evaluate, run_rounds
from fedmaml.server.summary import client_rows, cost_summary, summarise

_SAVE_SECONDS = 1.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a configuration and write the results to the run directory ``out``; "": a new one."""
    config = from_run_config(context.run_config)
    out, token = str(context.run_config["out"]), str(context.run_config.get(TOKEN, ""))
    directory = RunDirectory(Path(out) if out else new_directory(config))
    with directory.served(config, token):
        if not token:  # a relative path starts where the SuperLink was started
            print(f"writing to {directory.path.absolute()}")
        try:
            with EnergyMeter(_gpu(config)) as meter:
                _run_metered(grid, config, directory, meter)
        except Exception as error:
            directory.fail(error)
            raise


def _run_metered(
    grid: Grid, config: RunConfig, directory: RunDirectory, meter: EnergyMeter
) -> None:
    started = time.perf_counter()
    torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
    metered = MeteredGrid(grid)
    problem = config.make_problem()
    roll_call = call_roll(metered, config.nodes, config.timeout)
    config = replace(config, nodes=len(roll_call.hosts))  # more than asked for, if Flower runs more
    by_value = isinstance(grid, HostsNodes) and grid.by_value and config.device == "cpu"
    strategy = flower_strategy(config, problem, roll_call, by_value=by_value)
    used, left_out, cost = 0, 0, Cost()
    chosen = Chosen(0, strategy.state.meta)
    for record in run_rounds(strategy, metered, roll_call, config):
        directory.append(record)
        directory.save_meta(strategy.state.meta, at_most_every=_SAVE_SECONDS)
        used, cost = used + record.clients, cost + record.cost
        left_out += sum(len(rejection.clients) for rejection in record.rejected)
        latest = candidate(record, strategy.state.meta, problem.metrics[0])
        best = config.evaluation.select == "best"
        chosen = better(chosen, latest, problem.metrics[0]) if best else latest
        state = partial(run_state, record.round, strategy, roll_call, chosen, grid)
        directory.save_state(state, at_most_every=_SAVE_SECONDS)
    directory.save_state(partial(run_state, config.rounds, strategy, roll_call, chosen, grid))
    directory.save_meta(chosen.meta)
    strategy.state = replace(strategy.state, meta=chosen.meta)
    clients = clients_of_final_evaluation(roll_call, config)
    split = config.evaluation.split
    evaluated = evaluate(strategy, metered, roll_call, config, chosen.round, split, clients)
    rows = client_rows(config.make_scenario(), evaluated)
    directory.save_clients(rows)
    directory.finish(
        summarise(
            config,
            problem,
            chosen,
            evaluated,
            clients_train=len(roll_call.population("train")),
            updates_used=used,
            rejected_replies=left_out,
            clients_asked=len(clients),
            planned=roll_call.engines,
            engines=strategy.engines,
            cost=cost_summary(
                cost,
                config.rounds,
                metered,
                strategy.evaluation_cost,
                meter.energy(),
                problem.counters,
            ),
            seconds=time.perf_counter() - started,
        )
        | {
            "references": against_references(directory.references(), rows, problem.metrics),
            "audit": audited(config, roll_call, directory).to_json(),
        }
    )


@runtime_checkable
class HostsNodes(Protocol):
    """A grid whose nodes are in this process."""

    by_value: bool
    """Whether the nodes take requests that are not written, see `messages.handed`."""

    def node_states(self) -> Iterable[RecordDict]:
        """Return what each node keeps between messages."""


def run_state(
    round: int, strategy: FlowerStrategy, roll_call: RollCall, chosen: Chosen, grid: Grid
) -> RunState:
    """Return what a run needs to go on after a round."""
    memories: dict[int, Params] | None = None
    if isinstance(grid, HostsNodes):
        memories = {}
        for state in grid.node_states():
            memories |= read_memories(state)
    return RunState(
        round=round,
        server=strategy.state,
        shared_statistics=roll_call.shared_statistics,
        memories=memories,
        best_round=chosen.round,
        best_meta=chosen.meta,
        best_validation=chosen.validation,
    )


def _gpu(config: RunConfig) -> str:
    """Return the UUID of the GPU that computes on this machine; "" if none does."""
    if config.device == "cpu" or not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_properties(0).uuid)


def flower_strategy(
    config: RunConfig, problem: Problem, roll_call: RollCall, *, by_value: bool = False
) -> FlowerStrategy:
    """Return the Flower strategy that a configuration describes."""
    return FlowerStrategy(
        config.make_strategy(),
        problem,
        seed=config.seed,
        clients=config.clients,
        roll_call=roll_call,
        aggregator=robust_rule(config.aggregation),
        evaluation_steps=config.evaluation.steps,
        evaluation_shots=config.evaluation.shots,
        compression=config.compression,
        by_value=by_value,
    )
