"""Memories of clients, as records in the Flower context of the node that hosts them."""

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedmaml.core.params import Params
from fedmaml.messages.arrays import pack, unpack

_MEMORY, _LAYOUT = "memory-", "-layout"


def write_memory(state: RecordDict, client: int, memory: Params) -> None:
    """Store a client's memory in a node's state; it replaces the previous one."""
    arrays, layout = pack({"memory": memory})
    state[f"{_MEMORY}{client}"] = arrays
    state[f"{_MEMORY}{client}{_LAYOUT}"] = layout


def read_memory(state: RecordDict, client: int) -> Params:
    """Return a client's memory; {} if it keeps none."""
    # Each access to a typed view of a state builds it again, for all clients.
    arrays = state.get(f"{_MEMORY}{client}")
    layout = state.get(f"{_MEMORY}{client}{_LAYOUT}")
    if not isinstance(arrays, ArrayRecord) or not isinstance(layout, ConfigRecord):
        return {}
    return unpack(arrays, layout)["memory"]


def read_memories(state: RecordDict) -> dict[int, Params]:
    """Return the memories of all clients that keep one."""
    names = [name for name in state if name.startswith(_MEMORY) and not name.endswith(_LAYOUT)]
    clients = [int(name.removeprefix(_MEMORY)) for name in names]
    return {client: read_memory(state, client) for client in clients}
