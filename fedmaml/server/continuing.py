"""The state of a run between rounds: how it begins, grows round by round, and is taken up again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedmaml.core.costs import Computation
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.records import Event, RoundRecord
from fedmaml.core.requests import NEVER
from fedmaml.messages.memories import read_costs, read_memory, write_costs, write_memory
from fedmaml.runs.chain import Lines
from fedmaml.runs.state import RunState
from fedmaml.server.cohort import RollCall
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.server.model_selection import Chosen, better, candidate

_COUNTED = "train", "evaluate"  # a resumed run calls the roll again, and counts that call only


@runtime_checkable
class HostsNodes(Protocol):
    """A grid whose nodes are in this process."""

    by_value: bool
    """Whether the nodes take requests that are not written, see `messages.handed`."""

    def node_states(self) -> Mapping[int, RecordDict]:
        """Return node id -> what the node keeps between messages."""


def beginning(strategy: FlowerStrategy, roll_call: RollCall, anchor: str) -> RunState:
    """Return the state of a run before its first round, whose line will hang on the anchor."""
    return RunState(
        round=0,
        server=strategy.state,
        shared_statistics=roll_call.shared_statistics,
        senders=roll_call.statistics_from,
        best_meta=strategy.state.meta,
        lines=Lines(sha256=anchor),
    )


def take_up(
    state: RunState, strategy: FlowerStrategy, metered: MeteredGrid, roll_call: RollCall, grid: Grid
) -> tuple[RunState, RollCall]:
    """Put everybody where they were after a state that was read from the disk.

    Returns:
        The state, which knows that it was resumed, and the roll call with the statistics of the
        first one: a site that is away now must not change everybody's scale.
    """
    totals = state.totals
    strategy.state, strategy.used = state.server, state.used
    strategy.engines, strategy.evaluation_cost = dict(totals.engines), totals.evaluation_cost
    metered.go_on(totals.traffic, totals.sizes)
    if isinstance(grid, HostsNodes) and state.memories is not None:
        states = grid.node_states()
        for node_state in states.values():
            write_costs(node_state, state.costs)
        for node, clients in roll_call.place("train", state.memories).items():
            for client in clients:
                made = state.used[client]
                write_memory(states[node], client, state.memories[client], made, NEVER)
    roll_call = replace(
        roll_call, shared_statistics=state.shared_statistics, statistics_from=state.senders
    )
    return state.with_totals(resumed_after=(*totals.resumed_after, state.round)), roll_call


def events_of(state: RunState, roll_call: RollCall) -> tuple[tuple[Event, ...], RunState]:
    """Return what happened since the last round, and the state that knows it."""
    before, now = state.totals.nodes, tuple(map(roll_call.name, sorted(roll_call.hosts)))
    resumed = state.totals.resumed_after
    events = [Event("resumed")] if resumed and resumed[-1] == state.round else []
    events += [Event("joined", node) for node in now if node not in before]
    events += [Event("left", node) for node in before if node not in now]
    events += [Event("refused", str(node), why) for node, why in roll_call.refused.items()]
    return tuple(events), with_nodes(state, roll_call)


def with_nodes(state: RunState, roll_call: RollCall) -> RunState:
    """Return a state that knows who is on the roll."""
    return state.with_totals(nodes=tuple(map(roll_call.name, sorted(roll_call.hosts))))


def after_round(
    state: RunState,
    record: RoundRecord,
    lines: Lines,
    strategy: FlowerStrategy,
    traffic: MeteredGrid,
    seconds: float,
    metric: Metric,
    best: bool,
) -> RunState:
    """Return the state after one more round.

    Args:
        state: Before it.
        record: The round.
        lines: The lines of ``rounds.jsonl`` with it.
        strategy: After its step.
        traffic: Has counted all messages.
        seconds: Of the run so far.
        metric: The headline metric.
        best: Whether it chooses the round to evaluate; otherwise that is the last one.
    """
    latest = candidate(record, strategy.state.meta)
    chosen = better(chosen_in(state), latest, metric) if best else latest
    before = state.totals
    return replace(
        state,
        round=record.round,
        server=strategy.state,
        used=strategy.used,
        best_round=chosen.round,
        best_meta=chosen.meta,
        best_validation=chosen.validation,
        lines=lines,
        totals=replace(
            before,
            updates=before.updates + record.clients,
            left_out=before.left_out + sum(len(one.clients) for one in record.rejected),
            cost=before.cost + record.cost,
            evaluation_cost=strategy.evaluation_cost,
            engines=dict(strategy.engines),
            traffic={kind: vars(traffic.traffic(kind)) for kind in _COUNTED},
            seconds=seconds,
        ),
    )


def chosen_in(state: RunState) -> Chosen:
    """Return the round that would be evaluated if training ended after a state."""
    return Chosen(state.best_round, state.best_meta, state.best_validation)


def whole_state(state: RunState, metered: MeteredGrid, roll_call: RollCall, grid: Grid) -> RunState:
    """Return a state with what is collected for a commit only: sizes of messages, and memories.

    Nodes in this process give theirs; other nodes keep them themselves.
    """
    state = state.with_totals(sizes=metered.sizes())
    if not isinstance(grid, HostsNodes):
        return state
    states = grid.node_states()
    memories: dict[int, Params] = {}
    costs: dict[str, Computation] = {}
    for node_state in states.values():
        costs |= read_costs(node_state)
    for node, clients in roll_call.place("train", state.used).items():
        for client in clients:
            memory = read_memory(states[node], client, state.used[client])
            if memory is not None:
                memories[client] = memory
    return replace(state, memories=memories, costs=costs)
