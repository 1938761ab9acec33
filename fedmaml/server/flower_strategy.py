"""Any `MetaStrategy` as a Flower strategy: for fedmaml's own ServerApp and for anyone else's."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmaml.core import seeding
from fedmaml.core.compression import NO_COMPRESSION, Compression
from fedmaml.core.costs import Cost
from fedmaml.core.errors import MessageError
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric, Range, mean_metrics
from fedmaml.core.params import MetaParams
from fedmaml.core.records import Rejection
from fedmaml.core.requests import (
    MAX_EXAMPLES,
    EvaluateReply,
    EvaluateRequest,
    TrainReply,
    TrainRequest,
    Used,
)
from fedmaml.messages.arrays import arrays_from_meta, meta_from_arrays
from fedmaml.messages.evaluate import read_evaluate_reply, write_evaluate_request
from fedmaml.messages.handed import copied, handed_request
from fedmaml.messages.train import TrainRequestWriter, fingerprint, read_train_reply
from fedmaml.server.admission import EVERYBODY, Admission
from fedmaml.server.aggregate import apply_rule, weighted_mean
from fedmaml.server.cohort import RollCall, choose, one_client_per_node, wait_for_nodes
from fedmaml.server.limits import Limits, capped, without_outliers
from fedmaml.server.replies import log_left_out, read_all
from fedmaml.server.round_result import RoundResult, cost_of_evaluation, result_of_round
from fedmaml.strategies.base import MetaStrategy, ServerState, evaluation_stages

logger = logging.getLogger("fedmaml")


class FlowerStrategy(Strategy):
    """Runs a `MetaStrategy` on Flower's Message API.

        strategy = FlowerStrategy(FOMAML(), problem)
        result = strategy.start(grid, strategy.initial_arrays, num_rounds=100)

    Clients answer with `fedmaml.client.train_reply`. A reply that does not fit is left out of its
    round; the reason is in `last_round` and in the log. It never ends the run.

    Args:
        strategy: The algorithm.
        problem: Network, loss and metrics.
        seed: Determines initial parameters and cohorts.
        clients: Clients per round; 0: all.
        roll_call: Which node hosts which clients; None: every connected node is one client.
        aggregator: A Flower strategy (FedMedian, FedTrimmedAvg, Krum, MultiKrum, Bulyan) whose
            ``aggregate_train`` replaces the weighted mean of the updates.
        evaluation_steps: Further numbers of adaptation steps to evaluate.
        evaluation_shots: Smaller supports to evaluate the test clients on.
        min_nodes: Without a roll call: how many nodes to wait for.
        patience: Seconds to wait for the nodes.
        compression: How clients compress their updates.
        by_value: Whether all nodes are in this process, so that requests for training need not be
            written (`messages.handed`); compressed updates travel written anyway.
        limits: On what one site contributes, and the quorum of a round.
        admission: Whose replies are believed.
    """

    def __init__(
        self,
        strategy: MetaStrategy,
        problem: Problem,
        *,
        seed: int = 0,
        clients: int = 0,
        roll_call: RollCall | None = None,
        aggregator: Strategy | None = None,
        evaluation_steps: Sequence[int] = (),
        evaluation_shots: Sequence[int] = (),
        min_nodes: int = 1,
        patience: float = 300.0,
        compression: Compression = NO_COMPRESSION,
        by_value: bool = False,
        limits: Limits | None = None,
        admission: Admission = EVERYBODY,
    ) -> None:
        self.strategy = strategy
        start = strategy.build(problem, seeding.generator(seed, "init"))
        self.state: ServerState = start.state
        self.used: Mapping[int, Used] = {}
        self.keeps_memories = bool(start.memory or compression.first_residual(start.state.meta))
        self.last_round = RoundResult(0, (), 0.0, {}, (), Cost())
        self.evaluated = EvaluateReply((), {}, ())
        self.evaluation_cost = Cost()
        self.engines: dict[str, int] = {}
        self._seed, self._clients = seed, clients
        self._roll_call = roll_call
        self._aggregator = aggregator
        self._metrics = problem.metrics
        self._counters = tuple(counter.name for counter in problem.counters)
        self._limits, self._admission = limits or Limits(), admission
        self._ranges: dict[str, Range] = {}
        self._evaluation_steps = tuple(evaluation_steps)
        self._evaluation_shots = tuple(evaluation_shots)
        self._min_nodes, self._patience = min_nodes, patience
        self._compression = compression
        self._by_value = by_value and compression.compressor() is None
        self._numbers: dict[int, int] = {}
        self._train_sent: list[tuple[Message, TrainRequest]] = []
        self._evaluate_sent: list[tuple[Message, EvaluateRequest]] = []

    @property
    def headline(self) -> Metric:
        """The problem's first metric."""
        return self._metrics[0]

    @property
    def initial_arrays(self) -> ArrayRecord:
        """Current meta-parameters, theta under its ``state_dict`` names."""
        return arrays_from_meta(self.state.meta)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose the cohort; return one message per node that hosts some of it."""
        self._take_arrays(arrays)
        roll_call = self._hosts(grid)
        cohort = choose(self._seed, server_round, roll_call.population("train"), self._clients)
        return self.train_messages(server_round, roll_call, cohort)

    def train_messages(
        self, server_round: int, roll_call: RollCall, cohort: Sequence[int]
    ) -> list[Message]:
        """Return the requests of one round to the nodes of a cohort."""
        request = TrainRequest(
            round=server_round,
            clients=(),
            meta=self.state.meta,
            form="stack" if self._aggregator else "sum",
            shared_statistics=roll_call.shared_statistics,
            base=fingerprint(self.state.meta),
            compression=self._compression,
            seed=self._seed,
            used=self.used,
        )
        writer = cache(partial(TrainRequestWriter, request))
        sent = copied(request.meta) if self._by_value else {}
        self._train_sent = []
        for node, clients in roll_call.place("train", cohort).items():
            most = roll_call.examples.get(node, MAX_EXAMPLES)
            site = roll_call.names.get(node, "")
            asked = replace(request, clients=tuple(clients), max_examples=most, site=site)
            if self._by_value:
                write = partial(_written, writer, clients)
                content: RecordDict = handed_request(replace(asked, meta=sent), write)
            else:
                content = writer().write(clients)
            self._train_sent.append((Message(content, node, "train"), asked))
        return [message for message, _ in self._train_sent]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the replies, aggregate the sound ones and take the outer step."""
        self.step(server_round, replies)
        if not self.last_round.clients:
            return None, None
        metrics = MetricRecord({"num-examples": self.last_round.weight, **self.last_round.metrics})
        return self.initial_arrays, metrics

    def step(self, server_round: int, replies: Iterable[Message]) -> RoundResult:
        """Do what `aggregate_train` does, without turning the result into arrays."""
        names = self.strategy.facts.metrics
        read = partial(read_train_reply, counters=self._counters, metrics=names)
        sound, rejected = self._within_limits(
            *read_all(read, self._train_sent, replies, self._admission)
        )
        if sound:
            try:
                self.state = self.strategy.server_update(
                    self.state, self._aggregate(sound, server_round)
                )
            except MessageError as error:
                lost = tuple(sorted(client for reply in sound for client in reply.clients))
                rejected.append(Rejection(error.reason, error.detail, "", lost))
                sound = []
        log_left_out(f"round {server_round}", rejected)
        for reply in sound:
            for engine, count in (reply.engines or {"not reported": len(reply.clients)}).items():
                self.engines[engine] = self.engines.get(engine, 0) + count
        requests = [request for _, request in self._train_sent]
        if self.keeps_memories and requests:
            made = Used(server_round, requests[0].base)
            used_now = {client: made for reply in sound for client in reply.clients}
            self.used = {**self._remembered(rejected), **used_now}
        self.last_round = result_of_round(requests, sound, rejected)
        return self.last_round

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Request an evaluation of all clients of ``config["split"]`` ("test" by default)."""
        self._take_arrays(arrays)
        split = str(config.get("split", "test"))
        roll_call = self._hosts(grid)
        return self.evaluate_messages(server_round, split, roll_call, roll_call.population(split))

    def evaluate_messages(
        self, server_round: int, split: str, roll_call: RollCall, clients: Sequence[int]
    ) -> list[Message]:
        """Return the requests that evaluate adaptation at some clients."""
        request = EvaluateRequest(
            round=server_round,
            split=split,
            clients=(),
            meta=self.state.meta,
            steps=self._evaluation_steps if split == "test" else (),
            shots=self._evaluation_shots if split == "test" else (),
            shared_statistics=roll_call.shared_statistics,
            seed=self._seed,
            used=self.used,
            base=fingerprint(self.state.meta),
        )
        stages = [*evaluation_stages(self.strategy, request.steps)]
        stages += [f"shots@{count}" for count in request.shots]
        ranges = [(each, each.range(roll_call.shared_statistics)) for each in self._metrics]
        self._ranges = {
            f"{column}:{stage}": of
            for stage in stages for metric, of in ranges for column in metric.columns
        }  # fmt: skip
        self._evaluate_sent = []
        for node, placed in roll_call.place(split, clients).items():
            asked = replace(request, clients=tuple(placed), site=roll_call.names.get(node, ""))
            self._evaluate_sent.append(
                (Message(write_evaluate_request(asked), node, "evaluate"), asked)
            )
        return [message for message, _ in self._evaluate_sent]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Check the replies and average the metrics, every client counting once."""
        self.evaluate(replies)
        if not self.evaluated.clients:
            return None
        ones = [1.0] * len(self.evaluated.clients)
        return MetricRecord(dict(mean_metrics(self.evaluated.values, ones)))

    def evaluate(self, replies: Iterable[Message]) -> EvaluateReply:
        """Merge the evaluations of all nodes, ordered by client."""
        read = partial(read_evaluate_reply, ranges=self._ranges, counters=self._counters)
        sound, rejected = read_all(read, self._evaluate_sent, replies, self._admission)
        answers = [answer for _, answer in sound]
        asked = sum(len(request.clients) for _, request in self._evaluate_sent)
        self.evaluation_cost += cost_of_evaluation(asked, answers)
        rows: dict[int, dict[str, float]] = {}
        for answer in answers:
            for position, client in enumerate(answer.clients):
                rows[client] = {name: column[position] for name, column in answer.values.items()}
        log_left_out("evaluation", rejected)
        self.used = self._remembered(rejected)
        ordered = tuple(sorted(rows))
        names = rows[ordered[0]] if ordered else {}
        values = {name: [rows[client][name] for client in ordered] for name in names}
        self.evaluated = EvaluateReply(ordered, values, tuple(rejected))
        return self.evaluated

    def summary(self) -> None:
        """Log the strategy and its settings."""
        logger.info("FlowerStrategy: %s", self.strategy)

    def _hosts(self, grid: Grid) -> RollCall:
        if self._roll_call is not None:
            return self._roll_call
        present = wait_for_nodes(grid, self._min_nodes, self._patience)
        for node in present:  # a node keeps its number, so that its client keeps its memory
            self._numbers.setdefault(node, len(self._numbers))
        return one_client_per_node({node: self._numbers[node] for node in present})

    def _within_limits(
        self, answered: list[tuple[str, TrainReply]], rejected: list[Rejection]
    ) -> tuple[list[TrainReply], list[Rejection]]:
        """Return the replies that a step uses: none, if they are fewer than the quorum."""
        kept, outliers = without_outliers(answered, self._limits.norm)
        sound, rejected = [reply for _, reply in kept], [*rejected, *outliers]
        clients = tuple(sorted(client for reply in sound for client in reply.clients))
        if clients and len(clients) < self._limits.quorum:
            few = f"{len(clients)} clients' updates could be used, {self._limits.quorum} are needed"
            return [], [*rejected, Rejection("QUORUM", few, "", clients)]
        return capped(sound, self._limits.share), rejected

    def _remembered(self, rejected: Iterable[Rejection]) -> Mapping[int, Used]:
        """Return the last used updates, without those of clients that lost their memory."""
        lost = {client for each in rejected if each.reason == "MEMORY" for client in each.clients}
        if not lost:
            return self.used
        return {client: update for client, update in self.used.items() if client not in lost}

    def _take_arrays(self, arrays: ArrayRecord) -> None:
        """Take over the arrays of the caller, who may have changed or replaced them."""
        self.state = replace(self.state, meta=meta_from_arrays(arrays, self.state.meta))

    def _aggregate(self, sound: Sequence[TrainReply], server_round: int) -> MetaParams:
        if self._aggregator is None:
            return weighted_mean(sound, self.state.meta)
        return apply_rule(self._aggregator, sound, self.state.meta, server_round)


def _written(writer: Callable[[], TrainRequestWriter], clients: Sequence[int]) -> RecordDict:
    return writer().write(clients)
