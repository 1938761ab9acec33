"""The ServerApp: configuration in, run directory out."""

import time
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmaml.config import from_run_config
from fedmaml.core.costs import Cost
from fedmaml.server.aggregate import robust_rule
from fedmaml.server.cohort import call_roll
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.server.rounds import judge, run_rounds
from fedmaml.server.run_directory import RunDirectory
from fedmaml.server.summary import client_rows, cost_summary, summarise

_SAVE_SECONDS = 1.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the configuration says, and write it to the run directory ``out``."""
    directory = RunDirectory(Path(str(context.run_config["out"])))
    try:
        _run(grid, context, directory)
    except Exception as error:
        directory.fail(error)
        raise


def _run(grid: Grid, context: Context, directory: RunDirectory) -> None:
    started = time.perf_counter()
    torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
    config = from_run_config(context.run_config)
    if not (directory.path / "config.toml").exists():  # started by `flwr run`, not by fedmaml
        directory.create(config)
    metered = MeteredGrid(grid)
    problem = config.make_problem()
    roll_call = call_roll(metered, config.nodes, config.timeout)
    strategy = FlowerStrategy(
        config.make_strategy(),
        problem,
        seed=config.seed,
        clients=config.clients,
        roll_call=roll_call,
        aggregator=robust_rule(config.aggregation),
        evaluation_steps=config.evaluation.steps,
        evaluation_shots=config.evaluation.shots,
    )
    used, left_out, cost = 0, 0, Cost()
    for record in run_rounds(strategy, metered, roll_call, config):
        directory.append(record)
        directory.save_meta(strategy.state.meta, at_most_every=_SAVE_SECONDS)
        used, cost = used + record.clients, cost + record.cost
        left_out += sum(len(rejection.clients) for rejection in record.rejected)
    directory.save_meta(strategy.state.meta)
    test = roll_call.population("test")
    judged = judge(strategy, metered, roll_call, config, config.rounds, "test", test)
    directory.save_clients(client_rows(judged))
    directory.finish(
        summarise(
            config,
            problem,
            strategy.state.meta,
            judged,
            clients_train=len(roll_call.population("train")),
            updates_used=used,
            rejected_replies=left_out,
            clients_test_asked=len(test),
            planned=roll_call.engines,
            engines=strategy.engines,
            cost=cost_summary(cost, config.rounds, metered),
            seconds=time.perf_counter() - started,
        )
    )
