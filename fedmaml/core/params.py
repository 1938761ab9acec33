"""Trees of parameters: the values that strategies compute with and that messages carry.

`Params` maps a parameter's name (as in ``state_dict``) to its tensor; `MetaParams` maps a group
("theta", and "alpha" for learned inner rates) to its `Params`. Both are plain dictionaries, so
``torch.func`` transforms take them as they are. Functions here return new trees.
"""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Params = dict[str, Tensor]
MetaParams = dict[str, Params]
Layout = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of one group, in the order in which `flatten` lays them out."""


def map_params(function: Callable[..., Tensor], *trees: Params) -> Params:
    """Apply a function to the tensors of the same name in each tree."""
    first, *rest = trees
    return {name: function(value, *(tree[name] for tree in rest)) for name, value in first.items()}


def unstacked(params: Params, rows: int) -> list[Params]:
    """Return one tree for each row of the tensors' first axis, as views; {} without tensors."""
    if not params:
        return [{} for _ in range(rows)]
    each = zip(*(value.unbind() for value in params.values()), strict=True)
    return [dict(zip(params, row, strict=True)) for row in each]


def subtract(left: Params, right: Params) -> Params:
    """Return left - right, name by name."""
    return map_params(torch.sub, left, right)


def stepped(params: Params, update: Params, rate: float | Tensor = 1.0) -> Params:
    """Return params - rate * update, in the types of params; a mean of updates is float64."""
    return {name: (value - rate * update[name]).to(value.dtype) for name, value in params.items()}


def squared_norm(params: Params) -> Tensor:
    """Return the sum of squares over all entries, a scalar (0 for an empty tree)."""
    return sum((value.square().sum() for value in params.values()), start=_zero(params))


def _zero(params: Params) -> Tensor:
    """Return 0 on the device of the tree; on the CPU if the tree is empty."""
    first = next(iter(params.values()), torch.empty(0))
    return first.new_zeros(())


def squared_distance(left: Params, right: Params) -> Tensor:
    """Return the squared Euclidean distance between two trees, a scalar."""
    return squared_norm(subtract(left, right))


def zeros_like(meta: MetaParams) -> MetaParams:
    """Return a tree of the same groups, names and shapes that is zero everywhere."""
    return {group: map_params(torch.zeros_like, params) for group, params in meta.items()}


def to_device(meta: MetaParams, device: torch.device) -> MetaParams:
    """Return the tree on a device; tensors that are there already are not copied."""
    return {
        group: map_params(lambda value: value.to(device), params) for group, params in meta.items()
    }


def in_own_memory(meta: MetaParams) -> MetaParams:
    """Return the tree, each tensor at the beginning of memory of its own.

    Parts of a flat vector begin anywhere, depending on how a message was read; a dot product of
    PyTorch on a CPU has other bits for other addresses modulo 16 bytes.
    """
    return {group: map_params(torch.clone, params) for group, params in meta.items()}


def device_of(meta: MetaParams) -> torch.device:
    """Return the device of the tree."""
    return next(value.device for params in meta.values() for value in params.values())


def layout_of(params: Params) -> Layout:
    """Return the names and shapes of a tree, in its own order."""
    return tuple((name, tuple(value.shape)) for name, value in params.items())


def flatten(params: Params, batch_axes: int = 0) -> Tensor:
    """Lay a tree out as one array.

    Args:
        params: Tensors of shape ``(*batch, *shape)``, all of one dtype.
        batch_axes: How many leading axes every tensor shares.

    Returns:
        Tensor of shape ``(*batch, entries)``.
    """
    return torch.cat(
        [
            value.flatten(batch_axes) if value.dim() > batch_axes else value.unsqueeze(-1)
            for value in params.values()
        ],
        dim=-1,
    )


def unflatten(flat: Tensor, layout: Layout) -> Params:
    """Undo `flatten`: cut the last axis into tensors of the layout's shapes."""
    sizes = [torch.Size(shape).numel() for _, shape in layout]
    parts = torch.split(flat, sizes, dim=-1)
    batch = flat.shape[:-1]
    return {
        name: part.reshape((*batch, *shape))
        for (name, shape), part in zip(layout, parts, strict=True)
    }


def count_entries(meta: MetaParams) -> int:
    """Return how many numbers a tree holds."""
    return sum(value.numel() for params in meta.values() for value in params.values())


def count_bytes(groups: Mapping[str, Params]) -> int:
    """Return how many bytes the values of a tree take."""
    return sum(value.nbytes for params in groups.values() for value in params.values())


def sha256(groups: Mapping[str, Params]) -> str:
    """Fingerprint meta-parameters, the same on every machine.

    Covers, in order of the full name ``group/parameter``: name, dtype, shape and the
    little-endian bytes of the values.
    """
    digest = hashlib.sha256()
    named = {
        f"{group}/{name}": value
        for group, params in groups.items()
        for name, value in params.items()
    }
    for name in sorted(named):
        array = named[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name}|{array.dtype.name}|{array.shape}|".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()
