"""Seconds of a run that is ready: a few of its rounds and an evaluation, carried out and scaled.

    start         roll call, first meta-parameters
    first round   with all that is done once: measuring costs, warming up, compiling
    round         mean over the rounds after it
    evaluation    of validation clients, as often as in the run, and of the test clients

Cohorts of more than one chunk are cut to one chunk for each node, and the clients' time is scaled
by chunks; the server's is that of the whole cohort, with replies that are made up.
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from fedmaml.core.statistics import bootstrap_interval
from fedmaml.estimating.counting import made_up_replies
from fedmaml.estimating.rehearsal import Rehearsal
from fedmaml.runs.journal import Journal
from fedmaml.runs.state import RunState
from fedmaml.server.roll import Roll
from fedmaml.server.rounds import evaluate, run_rounds
from fedmaml.server.summary import peak_process_bytes

MAX_ROUNDS = 50
MIN_ROUNDS = 3
BUDGET_SECONDS = 2.0
"""Seconds to spend on the rounds after the first."""

_SECOND = 2  # a round that is not the first
_SERVED = 4  # times that the server's part of it is done


@dataclass(frozen=True)
class Seconds:
    """Wall time of a run on this machine, as ``seconds`` in its summary.

    Attributes:
        start: Before the first round.
        first_round: The first round.
        round_clients: Clients, in each round after the first.
        round_server: Server, likewise.
        evaluations: All evaluations together.
        total: Of the whole run.
        peak_process_bytes: Most memory of this process, which did what the run's process will do;
            None where there is no such count.
    """

    start: float
    first_round: float
    round_clients: float
    round_server: float
    evaluations: float
    total: float
    peak_process_bytes: int | None

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain values."""
        return asdict(self)


def time_run(ready: Rehearsal) -> Seconds:
    """Carry out a few rounds and an evaluation, and scale them to the run."""
    config = ready.config
    first, clients, server = _rounds(ready) if config.rounds else (0.0, 0.0, 0.0)
    evaluations = sum(
        count * _evaluation(ready, split, numbers)
        for split, (numbers, count) in ready.evaluated().items()
    )
    total = ready.seconds + first + max(config.rounds - 1, 0) * (clients + server) + evaluations
    # What a summary loads, too, counts as memory of the process.
    bootstrap_interval([0.0, 1.0, 2.0])
    peak = peak_process_bytes()
    return Seconds(ready.seconds, first, clients, server, evaluations, total, peak)


def _rounds(ready: Rehearsal) -> tuple[float, float, float]:
    """Return the seconds of the first round, and of clients and server in those after it."""
    config, cohort = ready.config, ready.cohort(1)
    probe = min(len(cohort), ready.train_chunk() * config.nodes)
    small = replace(
        config,
        clients=config.clients if probe == len(cohort) else probe,
        rounds=min(config.rounds, MAX_ROUNDS),
        evaluation=replace(config.evaluation, every=0, select="last"),
    )
    of_clients, of_server = [], []
    with tempfile.TemporaryDirectory(prefix="fedmaml-estimate-") as folder:
        journal = Journal(Path(folder), "")
        before = started = time.perf_counter()
        for record in run_rounds(ready.server, ready.grid, Roll(ready.roll_call), small):
            journal.append(record)
            state = partial(RunState, record.round, ready.server.state)
            journal.commit(state, at_most_every=1.0)
            now = time.perf_counter()
            of_clients.append(record.seconds_clients)
            of_server.append(now - before - record.seconds_clients)
            before = now
            if len(of_clients) == 1:
                started = now
            elif len(of_clients) > MIN_ROUNDS and now - started > BUDGET_SECONDS:
                break
        journal.close()
    factor = scale(ready, "train", cohort, probe, ready.train_chunk)
    later = slice(1, None) if len(of_clients) > 1 else slice(None)
    clients, server = _mean(of_clients[later]), _mean(of_server[later])
    once = of_clients[0] + of_server[0] - clients - server
    if probe < len(cohort):
        server = max(server, _serving(ready))
    return max(once, 0.0) + factor * clients + server, factor * clients, server


def _serving(ready: Rehearsal) -> float:
    """Return the seconds of the server in a round of the whole cohort; its replies are made up.

    A mean of several: Python's garbage collector does not come in every round.
    """
    seconds = 0.0
    for _ in range(_SERVED):
        started = time.perf_counter()
        cohort = ready.cohort(_SECOND)
        messages = ready.server.train_messages(_SECOND, ready.roll_call, cohort)
        seconds += time.perf_counter() - started
        replies = made_up_replies(ready, messages)
        started = time.perf_counter()
        ready.server.step(_SECOND, replies)
        seconds += time.perf_counter() - started
    return seconds / _SERVED


def _evaluation(ready: Rehearsal, split: str, clients: Sequence[int]) -> float:
    """Return the seconds of one evaluation."""
    batch = ready.evaluation_batch(len(clients))
    probe = clients[: batch * ready.config.nodes]
    started = time.perf_counter()
    evaluate(
        ready.server, ready.grid, ready.roll_call, ready.config, ready.config.rounds, split, probe
    )
    seconds = time.perf_counter() - started
    return seconds * scale(ready, split, clients, len(probe), lambda _: batch)


def scale(
    ready: Rehearsal,
    split: str,
    clients: Sequence[int],
    probe: int,
    chunk_size: Callable[[int], int],
) -> float:
    """Return how many times as long a request to all clients takes as one to the probe.

    Args:
        ready: The run.
        split: Of the clients.
        clients: All of them.
        probe: Number of clients in the probe.
        chunk_size: Number of clients at a node -> how many of them share a computation.
    """
    if probe == len(clients):
        return 1.0
    workers = ready.config.workers
    if workers == 1:
        return len(clients) / probe

    def one_after_the_other(at_a_node: int) -> int:
        size = min(chunk_size(at_a_node), at_a_node)
        return math.ceil(math.ceil(at_a_node / size) / workers) * size

    sizes = [len(placed) for placed in ready.roll_call.place(split, clients).values()]
    longest = [one_after_the_other(size) for size in sizes]
    return sum(longest) / len(longest) / one_after_the_other(probe // ready.config.nodes)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
