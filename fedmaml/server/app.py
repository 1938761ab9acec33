"""The ServerApp: configuration in, run directory out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmaml.config import RunConfig, from_run_config
from fedmaml.core.errors import QuorumError, RunDirectoryError
from fedmaml.core.learner import Problem
from fedmaml.core.records import Rejection
from fedmaml.energy import EnergyMeter
from fedmaml.runs.directory import TOKEN, RunDirectory, named_by, new_directory
from fedmaml.runs.journal import Journal
from fedmaml.runs.references import against_references
from fedmaml.runs.state import RunState
from fedmaml.server.admission import EVERYBODY, Admission, admission
from fedmaml.server.aggregate import robust_rule
from fedmaml.server.audit import audited
from fedmaml.server.cohort import RollCall
from fedmaml.server.continuing import (
    HostsNodes,
    after_round,
    beginning,
    chosen_in,
    events_of,
    take_up,
    whole_state,
    with_nodes,
)
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.limits import Limits
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.server.roll import Roll, call_roll
from fedmaml.server.rounds import clients_of_final_evaluation, evaluate, run_rounds
from fedmaml.server.summary import client_rows, cost_summary, energy_of, summarise

_SECONDS = 1.0
"""Least time between two commits where rounds are cheap; the others are computed again."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a configuration and write the results to the run directory ``out``; "": a new one."""
    config = from_run_config(context.run_config)
    out, token = str(context.run_config["out"]), str(context.run_config.get(TOKEN, ""))
    directory = RunDirectory(named_by(out) if out else new_directory(config))
    with directory.served(config, token):
        if not token:  # a relative path starts where the SuperLink was started
            print(f"writing to {directory.path.absolute()}")
        try:
            with EnergyMeter(_gpu(config)) as meter:
                admitted = admission(config, context.run_id)
                _run_metered(grid, config, directory, meter, admitted)
        except Exception as error:
            directory.fail(error)
            raise


def _run_metered(
    grid: Grid,
    config: RunConfig,
    directory: RunDirectory,
    meter: EnergyMeter,
    admitted: Admission,
) -> None:
    torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
    with directory.journal() as journal:
        run = _begun(grid, config, directory, admitted)
        state = _trained(run, journal)
        _finish(run, state, directory, meter)


@dataclass(frozen=True)
class _Run:
    """A run between its roll call and its end.

    Attributes:
        state: When this process began: before round 1, or where it was resumed.
        started: Clock when the run would have begun if it had never been interrupted.
    """

    config: RunConfig
    problem: Problem
    grid: Grid
    metered: MeteredGrid
    roll: Roll
    strategy: FlowerStrategy
    state: RunState
    started: float

    def seconds(self) -> float:
        """Return the seconds of the run so far, without those between its processes."""
        return time.perf_counter() - self.started


def _begun(grid: Grid, config: RunConfig, directory: RunDirectory, admitted: Admission) -> _Run:
    """Call the roll, and begin or take up the run."""
    started, metered = time.perf_counter(), MeteredGrid(grid)
    saved = directory.newest_state().state
    problem = config.make_problem()
    check = config.make_scenario().unsound_statistics
    roll_call = call_roll(metered, config.nodes, config.timeout, check, admitted)
    config = replace(config, nodes=len(roll_call.hosts))  # more than asked for, if Flower runs more
    by_value = isinstance(grid, HostsNodes) and grid.by_value and config.device == "cpu"
    strategy = flower_strategy(config, problem, roll_call, by_value=by_value, admitted=admitted)
    if saved is None:
        state = beginning(strategy, roll_call, directory.anchor())
    else:
        state, roll_call = take_up(saved, strategy, metered, roll_call, grid)
    started -= state.totals.seconds
    roll = Roll(roll_call, metered, config.timeout, admitted)
    return _Run(config, problem, grid, metered, roll, strategy, state, started)


def _trained(run: _Run, journal: Journal) -> RunState:
    """Train; return the state after the last round, which is on the disk."""
    strategy, config, state = run.strategy, run.config, run.state
    metric, best = run.problem.metrics[0], config.evaluation.select == "best"
    pause = 0.0 if strategy.keeps_memories and not isinstance(run.grid, HostsNodes) else _SECONDS

    def whole() -> RunState:
        return whole_state(state, run.metered, run.roll.call, run.grid)

    events, state = events_of(state, run.roll.call)
    try:
        for finished in run_rounds(strategy, run.metered, run.roll, config, state.round):
            _somebody_answered(f"round {finished.round}", finished.clients, finished.rejected)
            record = replace(finished, events=(*events, *finished.events))
            lines, events = journal.append(record), ()
            state = after_round(
                state, record, lines, strategy, run.metered, run.seconds(), metric, best
            )
            if finished.events:
                state = with_nodes(state, run.roll.call)
            journal.commit(whole, at_most_every=pause)
    except RunDirectoryError:  # of the journal itself: the last commit stays as it is
        raise
    except BaseException:
        journal.commit(whole)
        raise
    journal.commit(whole)
    return state


def _somebody_answered(when: str, clients: int, rejected: Sequence[Rejection]) -> None:
    """Refuse to go on without anybody: the nodes have ended, or cannot be reached.

    Raises:
        QuorumError: If nobody answered; what was finished before stays.
    """
    if not clients and rejected and all(each.reason == "NO_REPLY" for each in rejected):
        raise QuorumError(
            f"nobody answered in {when} ({rejected[0].detail}); what was finished before is kept: "
            "fedmaml run --resume goes on with it"
        )


def _finish(run: _Run, state: RunState, directory: RunDirectory, meter: EnergyMeter) -> None:
    """Evaluate the chosen round and write the results."""
    config, strategy, chosen = run.config, run.strategy, chosen_in(state)
    directory.save_meta(chosen.meta, chosen.round)
    strategy.state = replace(strategy.state, meta=chosen.meta)
    roll_call = run.roll.call
    clients = clients_of_final_evaluation(roll_call, config)
    split = config.evaluation.split
    evaluated = evaluate(strategy, run.metered, roll_call, config, chosen.round, split, clients)
    _somebody_answered("the evaluation", len(evaluated.clients), evaluated.rejected)
    rows = client_rows(config.make_scenario(), evaluated)
    directory.save_clients(rows)
    totals = state.totals
    summary = summarise(
        config,
        run.problem,
        chosen,
        evaluated,
        clients_train=len(roll_call.population("train")),
        updates_used=totals.updates,
        rejected_replies=totals.left_out,
        clients_asked=len(clients),
        planned=roll_call.engines,
        engines=strategy.engines,
        cost=cost_summary(
            totals.cost,
            config.rounds,
            run.metered,
            strategy.evaluation_cost,
            energy_of(meter.energy(), totals.resumed_after),
            run.problem.counters,
        ),
        seconds=run.seconds(),
    )
    directory.finish(
        summary
        | {
            "references": against_references(directory.references(), rows, run.problem.metrics),
            "audit": audited(config, roll_call, directory).to_json(),
            "rounds_sha256": state.lines.sha256,
            **({"left_out": left_out} if (left_out := directory.left_out()) else {}),
            **({"resumed_after": list(totals.resumed_after)} if totals.resumed_after else {}),
        }
    )


def _gpu(config: RunConfig) -> str:
    """Return the UUID of the GPU that computes on this machine; "" if none does."""
    if config.device == "cpu" or not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_properties(0).uuid)


def flower_strategy(
    config: RunConfig,
    problem: Problem,
    roll_call: RollCall,
    *,
    by_value: bool = False,
    admitted: Admission = EVERYBODY,
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
        limits=Limits(
            config.aggregation.largest_norm, config.aggregation.largest_share, config.quorum
        ),
        admission=admitted,
    )
