"""The only round loop."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from flwr.serverapp import Grid

from fedmaml.config import RunConfig
from fedmaml.core.errors import QuorumError
from fedmaml.core.metrics import mean_metrics
from fedmaml.core.records import Event, RoundRecord
from fedmaml.core.requests import EvaluateReply
from fedmaml.server.cohort import RollCall, choose
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.server.model_selection import value_of
from fedmaml.server.roll import Roll
from fedmaml.server.round_result import RoundResult

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds before a round below its quorum is repeated
_LISTED = 10  # sites in a message

logger = logging.getLogger("fedmaml")


def run_rounds(
    strategy: FlowerStrategy,
    grid: MeteredGrid,
    roll: Roll,
    config: RunConfig,
    after: int = 0,
) -> Iterator[RoundRecord]:
    """Train; yield a record after each round, once the strategy's state includes it.

    Args:
        strategy: Holds the state of round ``after``.
        grid: The way to the nodes.
        roll: Which node hosts which clients; called again when a node appears.
        config: Of the run.
        after: The last finished round.

    Raises:
        QuorumError: If too few clients' updates could be used for too long.
    """
    for number in range(after + 1, config.rounds + 1):
        started, before = time.perf_counter(), grid.traffic("train")
        result, events = _stepped(strategy, grid, roll, config, number)
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
            events=events,
        )
        roll_call = roll.call
        validation = validation_clients(roll_call, config)
        if validation and is_due(number, config):
            evaluated = evaluate(
                strategy, grid, roll_call, config, number, "validation", validation
            )
            means = mean_metrics(evaluated.values, [1.0] * len(evaluated.clients))
            selected_by = value_of(strategy.headline, evaluated.values)
            record = replace(record, evaluation=means, validation=selected_by)
        yield record


def _stepped(
    strategy: FlowerStrategy, grid: MeteredGrid, roll: Roll, config: RunConfig, number: int
) -> tuple[RoundResult, tuple[Event, ...]]:
    """Train for one round, again and again until its quorum is there; return who came meanwhile.

    Raises:
        QuorumError: If it was not there in time.
    """
    events = roll.call_again()
    deadline, pause = 0.0, _FIRST_PAUSE
    while True:
        cohort = choose(config.seed, number, roll.call.population("train"), config.clients)
        messages = strategy.train_messages(number, roll.call, cohort)
        result = strategy.step(number, grid.send_and_receive(messages, timeout=config.timeout))
        if len(result.clients) >= config.quorum:
            return result, events
        deadline = deadline or time.monotonic() + config.quorum_timeout
        left = deadline - time.monotonic()
        missing = _missing(number, result, roll.call, config)
        if left <= 0:
            raise QuorumError(
                f"{missing} after {config.quorum_timeout:g} s (quorum_timeout); the rounds before "
                "are kept: fedmaml run --resume goes on with them when the sites are back"
            )
        until = datetime.now().astimezone() + timedelta(seconds=left)
        logger.warning("%s; waiting for them until %s", missing, f"{until:%Y-%m-%d %H:%M:%S %Z}")
        events += _awaited(roll, min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _awaited(roll: Roll, seconds: float) -> tuple[Event, ...]:
    """Wait for a node to appear, but not longer than this."""
    end = time.monotonic() + seconds
    while not (events := roll.call_again()) and time.monotonic() < end:
        time.sleep(min(_FIRST_PAUSE, max(0.0, end - time.monotonic())))
    return events


def _missing(number: int, result: RoundResult, call: RollCall, config: RunConfig) -> str:
    """Return "round 3: updates of 2 clients could be used, 4 are needed; missing: site a (why)"."""
    why: dict[str, str] = {}
    for each in result.rejected:
        if each.reason != "QUORUM":
            name = call.name(int(each.node)) if each.node else "unknown"
            why.setdefault(name, each.reason)
    usable = sum(len(each.clients) for each in result.rejected if each.reason == "QUORUM")
    listed = [f"{name} ({reason})" for name, reason in why.items()]
    rest = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return (
        f"round {number}: the updates of {usable} clients could be used, {config.quorum} are "
        f"needed (quorum); missing: {', '.join(listed[:_LISTED]) or 'nobody'}{rest}"
    )


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
