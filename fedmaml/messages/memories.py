"""What a node keeps between messages, as records in its Flower context: its clients' memories.

A client has two slots. One holds its memory after the last update that the server used, the other
its memory after a later update, which the server may use or not. Each is labelled with the round
and the base of its update (`core.requests.Used`). Beside them are the costs that the node
has measured.
"""

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedmaml.core.costs import Computation
from fedmaml.core.params import Params
from fedmaml.core.requests import Used
from fedmaml.messages.arrays import pack, unpack

SLOTS = "a", "b"
_COSTS = "costs"


def read_memory(state: RecordDict, client: int, used: Used) -> Params | None:
    """Return the memory after an update; None if neither slot holds it."""
    for slot in SLOTS:
        # Each access to a typed view of a state builds it again, for all clients.
        label = state.get(_label(client, slot))
        arrays = state.get(_arrays(client, slot))
        if not isinstance(label, ConfigRecord) or not isinstance(arrays, ArrayRecord):
            continue
        if _used(label) == used:
            return unpack(arrays, ConfigRecord({"memory": str(label["memory"])}))["memory"]
    return None


def write_memory(state: RecordDict, client: int, memory: Params, made: Used, used: Used) -> None:
    """Store the memory after an update, beside that after the last used one.

    Args:
        state: The node's.
        client: Its number.
        memory: Of the client.
        made: The update.
        used: The last update that the server used; the memory after it stays.
    """
    labels = {slot: state.get(_label(client, slot)) for slot in SLOTS}
    keeps = [
        slot
        for slot, label in labels.items()
        if isinstance(label, ConfigRecord) and _used(label) == used
    ]
    target, *others = [slot for slot in SLOTS if slot not in keeps[:1]]
    for slot in others:
        state.pop(_label(client, slot), None)
        state.pop(_arrays(client, slot), None)
    arrays, layout = pack({"memory": memory})
    state[_arrays(client, target)] = arrays
    state[_label(client, target)] = ConfigRecord({**layout, "round": made.round, "base": made.base})


def read_costs(state: RecordDict) -> dict[str, Computation]:
    """Return the costs that a node has measured."""
    record = state.get(_COSTS, ConfigRecord())
    return {key: Computation(*values) for key, values in record.items()}  # type: ignore[misc]


def write_costs(state: RecordDict, costs: Mapping[str, Computation]) -> None:
    """Store the costs that a node has measured; nothing if it knows them already."""
    if costs and (_COSTS not in state or len(state[_COSTS]) != len(costs)):
        stored = {key: [cost.flops, cost.peak_bytes] for key, cost in costs.items()}
        state[_COSTS] = ConfigRecord(stored)  # type: ignore[arg-type]


def _used(label: ConfigRecord) -> Used:
    return Used(int(str(label["round"])), str(label["base"]))


def _label(client: int, slot: str) -> str:
    return f"memory-{client}-{slot}-label"


def _arrays(client: int, slot: str) -> str:
    return f"memory-{client}-{slot}"
