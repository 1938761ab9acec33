"""What a client keeps between rounds, in the Flower context of the node that hosts it.

That is the strategy's memory and, if updates are compressed with error feedback, beside it what was
left out of them so far, flat, under `RESIDUAL` and the group. Both are saved together, and stay
while the client is not asked. A strategy never sees the residual.
"""

from collections.abc import Mapping, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Context

from fedmaml.core.params import Params
from fedmaml.messages.arrays import pack, unpack

RESIDUAL = "residual/"
"""No parameter's name has a slash."""


def load_memories(context: Context, clients: Sequence[int], blank: Params) -> dict[int, Params]:
    """Return of each client's memory what ``blank`` names; that of ``blank`` if it has none yet."""
    if not blank:
        return dict.fromkeys(clients, blank)
    memories = {}
    for client in clients:
        stored = _load(context, client)
        memories[client] = {name: stored.get(name, value) for name, value in blank.items()}
    return memories


def save_memories(context: Context, memories: Mapping[int, Params]) -> None:
    """Keep what clients want to keep."""
    for client, memory in memories.items():
        if memory:
            arrays, layout = pack({"memory": memory})
            context.state[_key(client)] = arrays
            context.state[_key(client) + "-layout"] = layout


def apart(memories: Mapping[int, Params]) -> tuple[dict[int, Params], dict[int, Params]]:
    """Return the strategy's memories and the residuals."""
    strategys: dict[int, Params] = {}
    residuals: dict[int, Params] = {}
    for client, memory in memories.items():
        residuals[client] = {
            name: value for name, value in memory.items() if name.startswith(RESIDUAL)
        }
        own = memory.keys() - residuals[client].keys()
        strategys[client] = {name: value for name, value in memory.items() if name in own}
    return strategys, residuals


def _load(context: Context, client: int) -> Params:
    state = context.state  # its typed views are made anew, of all clients, by every look at them
    arrays, layout = state.get(_key(client)), state.get(_key(client) + "-layout")
    if not isinstance(arrays, ArrayRecord) or not isinstance(layout, ConfigRecord):
        return {}
    return unpack(arrays, layout)["memory"]


def _key(client: int) -> str:
    return f"memory-{client}"
