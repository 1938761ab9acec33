"""A client compresses its update: it adds the residual, encodes, and keeps the new residual.

Each client is compressed by itself: seed, round, group and client determine its random rounding. So
the server gets the same updates whether a node sends the ``codes`` that `compressed` returns, or
hosts many clients and sends the sum of the decoded updates.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from fedmaml.computing.engines import Memories, Rows
from fedmaml.core import aggregation, seeding
from fedmaml.core.compressors import Compressor, to_bytes
from fedmaml.core.params import Params, flatten, layout_of, unflatten
from fedmaml.core.requests import TrainRequest

RESIDUAL = "residual/"
"""No parameter's name has a slash."""

_BLOCK_ENTRIES = 2**20  # of float64 draws at a time: 8 MB


def compressed(request: TrainRequest, part: Rows, residuals: Memories) -> Rows:
    """Replace updates by their decoded codes, as the server sees them; keep the rest as memory.

    Args:
        request: Holds the setting of the compression.
        part: Updates from an engine.
        residuals: Client -> its residual, under `RESIDUAL` names; {} without feedback.

    Returns:
        The clients with their codes, and with their residuals beside the strategy's memory. An
        update that cannot be sent (not finite) stays as it is; the caller rejects it.
    """
    compressor = request.compression.compressor()
    if compressor is None:
        return part
    update, memory, codes = {}, dict(part.results.memory), {}
    for group, params in part.results.update.items():
        vectors, name = flatten(params, batch_axes=1).cpu(), RESIDUAL + group
        if feedback := name in residuals[part.clients[0]]:
            vectors = vectors + torch.stack([residuals[client][name] for client in part.clients])
        sound = aggregation.in_range(vectors, part.results.weight.cpu())[:, None]
        codes[group], sent = _through_wire(
            request, group, compressor, part.clients, torch.where(sound, vectors, 0)
        )
        if feedback:
            memory[name] = vectors - sent
        update[group] = unflatten(torch.where(sound, sent, vectors), layout_of(request.meta[group]))
    results = part.results._replace(update=update, memory=memory, weight=part.results.weight.cpu())
    return Rows(part.clients, results, codes)


def _through_wire(
    request: TrainRequest,
    group: str,
    compressor: Compressor,
    clients: tuple[int, ...],
    vectors: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the codes of finite vectors as bytes, and the decoded vectors."""
    key = seeding.key(request.seed, "compression", request.round, group)
    entries = vectors.shape[1]
    size = max(1, _BLOCK_ENTRIES // entries)
    codes, sent = [], []
    for first in range(0, len(clients), size):
        block, some = vectors[first : first + size], clients[first : first + size]
        code = compressor.encode(block, partial(seeding.uniform, key, some, entries))
        codes.append(to_bytes(code))
        sent.append(compressor.decode(code, entries, vectors.dtype))
    return torch.cat(codes), torch.cat(sent)


def split_residuals(
    memories: Mapping[int, Params],
) -> tuple[dict[int, Params], dict[int, Params]]:
    """Return the strategy's memories and the residuals."""
    kept: dict[int, Params] = {}
    residuals: dict[int, Params] = {}
    for client, memory in memories.items():
        named = {name: name.startswith(RESIDUAL) for name in memory}
        residuals[client] = {name: value for name, value in memory.items() if named[name]}
        kept[client] = {name: value for name, value in memory.items() if not named[name]}
    return kept, residuals
