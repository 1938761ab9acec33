"""A client's memory between rounds, kept in the Flower context of the node that hosts it."""

from collections.abc import Mapping, Sequence

from flwr.app import Context

from fedmaml.core.params import Params
from fedmaml.messages.arrays import pack, unpack


def load_memories(context: Context, clients: Sequence[int], blank: Params) -> dict[int, Params]:
    """Return each client's memory; ``blank`` for those that have none yet."""
    return (
        {client: _load(context, client) or blank for client in clients}
        if blank
        else {client: {} for client in clients}
    )


def save_memories(context: Context, memories: Mapping[int, Params]) -> None:
    """Keep what clients want to keep."""
    for client, memory in memories.items():
        if memory:
            arrays, layout = pack({"memory": memory})
            context.state[_key(client)] = arrays
            context.state[_key(client) + "-layout"] = layout


def _load(context: Context, client: int) -> Params:
    if _key(client) not in context.state:
        return {}
    state = context.state
    arrays, layout = (
        state.array_records[_key(client)],
        state.config_records[_key(client) + "-layout"],
    )
    return unpack(arrays, layout)["memory"]


def _key(client: int) -> str:
    return f"memory-{client}"
