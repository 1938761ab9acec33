"""A client's memory between rounds, which the node that hosts it keeps (`client.slots`).

It is the strategy's memory and, if updates are compressed with error feedback, beside it the
residual, flat, under `RESIDUAL` and the group. Both are saved together, and do not change in rounds
without the client. A strategy never sees the residual.

A request names the last update of each client that the server used (`core.requests.Used`). The
client starts from its memory after that update, and forgets what followed. So an update that was
refused, lost or late, or that a server computed before it was killed, leaves no trace. A client
that lacks that memory is left out with the reason MEMORY; the server then lets it start anew.
"""

from collections.abc import Mapping, Sequence

from flwr.app import Context

from fedmaml.client.slots import slots_of
from fedmaml.computing.costs import Costs
from fedmaml.core.params import Params
from fedmaml.core.records import Rejection
from fedmaml.core.requests import NEVER, Used
from fedmaml.messages.memories import read_costs, write_costs


def load_memories(
    context: Context,
    clients: Sequence[int],
    initial_memory: Params,
    used: Mapping[int, Used] | None = None,
) -> dict[int, Params]:
    """Return the memory of each client after its last used update; a new one if none was used.

    Args:
        context: Of the node.
        clients: Their numbers.
        initial_memory: Of a new client; only these entries are returned.
        used: Client -> its last used update.

    Returns:
        Memories in the order of the clients, without those that the node lacks.
    """
    if not initial_memory:
        return dict.fromkeys(clients, initial_memory)
    memories, slots = {}, slots_of(context)
    for client in clients:
        update = (used or {}).get(client, NEVER)
        stored = slots.read(client, update) if update.round else {}
        if stored is not None:
            memories[client] = {
                name: stored.get(name, value) for name, value in initial_memory.items()
            }
    return memories


def save_memories(
    context: Context,
    memories: Mapping[int, Params],
    made: Used,
    used: Mapping[int, Used] | None = None,
) -> None:
    """Store the memories of clients after an update, beside those after the last used ones."""
    slots = slots_of(context)
    for client, memory in memories.items():
        if memory:
            slots.write(client, memory, made, (used or {}).get(client, NEVER))


def without_memory(clients: Sequence[int], memories: Mapping[int, Params]) -> tuple[Rejection, ...]:
    """Return the rejection of the clients whose memories `load_memories` did not find."""
    lost = tuple(client for client in clients if client not in memories)
    if not lost:
        return ()
    return (Rejection("MEMORY", "the node lacks the memory after the last used update", "", lost),)


def load_costs(context: Context) -> Costs:
    """Return the costs that the node has measured."""
    return read_costs(context.state)


def save_costs(context: Context, costs: Costs) -> None:
    """Store the costs that the node has measured."""
    write_costs(context.state, costs)
