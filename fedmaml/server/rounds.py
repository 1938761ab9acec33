"""The only round loop."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from flwr.serverapp import Grid

from fedmaml.config import RunConfig
from fedmaml.core.metrics import mean_metrics
from fedmaml.core.records import RoundRecord
from fedmaml.core.requests import EvaluateReply
from fedmaml.server.cohort import RollCall, choose
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid


def run_rounds(
    strategy: FlowerStrategy,
    grid: MeteredGrid,
    roll_call: RollCall,
    config: RunConfig,
    after: int = 0,
) -> Iterator[RoundRecord]:
    """Train; yield a record after each round, once the strategy's state includes it.

    Args:
        strategy: Holds the state of round ``after``.
        grid: The way to the nodes.
        roll_call: Which node hosts which clients.
        config: Of the run.
        after: The last finished round.
    """
    population = roll_call.population("train")
    validation = validation_clients(roll_call, config)
    for number in range(after + 1, config.rounds + 1):
        started, before = time.perf_counter(), grid.traffic("train")
        cohort = choose(config.seed, number, population, config.clients)
        messages = strategy.train_messages(number, roll_call, cohort)
        result = strategy.step(number, grid.send_and_receive(messages, timeout=config.timeout))
        seconds, traffic = time.perf_counter() - started, grid.traffic("train") - before
        record = RoundRecord(
            round=number,
            cohort=result.cohort,
            clients=len(result.clients),
            weight=result.weight,
            metrics=result.metrics,
            rejected=result.rejected,
            seconds=seconds,
            seconds_clients=traffic.seconds,
            cost=replace(
                result.cost,
                messages_down=traffic.messages_down,
                messages_up=traffic.messages_up,
                message_bytes_down=traffic.message_bytes_down,
                message_bytes_up=traffic.message_bytes_up,
                seconds_clients=traffic.seconds,
                seconds_server=seconds - traffic.seconds,
            ),
        )
        if validation and is_due(number, config):
            evaluated = evaluate(
                strategy, grid, roll_call, config, number, "validation", validation
            )
            means = mean_metrics(evaluated.values, [1.0] * len(evaluated.clients))
            record = replace(record, evaluation=means)
        yield record


def clients_of_final_evaluation(roll_call: RollCall, config: RunConfig) -> Sequence[int]:
    """Return the clients on which a run is evaluated at its end."""
    if config.evaluation.split == "validation":
        return validation_clients(roll_call, config)
    return roll_call.population("test")


def validation_clients(roll_call: RollCall, config: RunConfig) -> Sequence[int]:
    """Return the clients on which a run is evaluated during training."""
    return roll_call.population("validation")[: config.evaluation.largest]


def times_due(config: RunConfig) -> int:
    """Return how often a run evaluates the validation clients."""
    every, rounds = config.evaluation.every, config.rounds
    regularly = rounds // every if every else 0
    extra = rounds > 0 and is_due(rounds, config) and (not every or rounds % every > 0)
    return regularly + int(extra)


def is_due(number: int, config: RunConfig) -> bool:
    """Return whether the validation clients are evaluated after this round."""
    every = config.evaluation.every
    last = config.evaluation.select == "best" and number == config.rounds
    return last or bool(every and number % every == 0)


def evaluate(
    strategy: FlowerStrategy,
    grid: Grid,
    roll_call: RollCall,
    config: RunConfig,
    round: int,
    split: str,
    clients: Sequence[int],
) -> EvaluateReply:
    """Evaluate adaptation at some clients of a split."""
    messages = strategy.evaluate_messages(round, split, roll_call, clients)
    return strategy.evaluate(grid.send_and_receive(messages, timeout=config.timeout))
