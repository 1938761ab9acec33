"""What clients keep, as records in the Flower context of the node that hosts them."""

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedmaml.core.params import Params
from fedmaml.messages.arrays import pack, unpack

_MEMORY, _LAYOUT = "memory-", "-layout"


def write_memory(state: RecordDict, client: int, memory: Params) -> None:
    """Keep a client's memory in a node's state, in place of the one before."""
    arrays, layout = pack({"memory": memory})
    state[f"{_MEMORY}{client}"] = arrays
    state[f"{_MEMORY}{client}{_LAYOUT}"] = layout


def read_memory(state: RecordDict, client: int) -> Params:
    """Return a client's memory; {} if it keeps none."""
    # The typed views of a state are made anew, of all clients, by every look at them.
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
