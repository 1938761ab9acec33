"""A client's memory between rounds, in the Flower context of the node that hosts it.

It is the strategy's memory and, if updates are compressed with error feedback, beside it the
residual, flat, under `RESIDUAL` and the group. Both are saved together, and do not change in rounds
without the client. A strategy never sees the residual.
"""

from collections.abc import Mapping, Sequence

from flwr.app import ConfigRecord, Context

from fedmaml.computing.costs import Costs
from fedmaml.core.costs import Computation
from fedmaml.core.params import Params
from fedmaml.messages.memories import read_memory, write_memory

_COSTS = "costs"


def load_memories(
    context: Context, clients: Sequence[int], initial_memory: Params
) -> dict[int, Params]:
    """Return each client's memory, entry by entry, or ``initial_memory`` if it is new."""
    if not initial_memory:
        return dict.fromkeys(clients, initial_memory)
    memories = {}
    for client in clients:
        stored = read_memory(context.state, client)
        memories[client] = {name: stored.get(name, value) for name, value in initial_memory.items()}
    return memories


def save_memories(context: Context, memories: Mapping[int, Params]) -> None:
    """Store the new memories of clients."""
    for client, memory in memories.items():
        if memory:
            write_memory(context.state, client, memory)


def load_costs(context: Context) -> Costs:
    """Return the costs that the node has measured."""
    record = context.state.get(_COSTS, ConfigRecord())
    return {key: Computation(*values) for key, values in record.items()}  # type: ignore[misc]


def save_costs(context: Context, costs: Costs) -> None:
    """Store the costs that the node has measured."""
    if costs and (_COSTS not in context.state or len(context.state[_COSTS]) != len(costs)):
        stored = {key: [cost.flops, cost.peak_bytes] for key, cost in costs.items()}
        context.state[_COSTS] = ConfigRecord(stored)  # type: ignore[arg-type]
