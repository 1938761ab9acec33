"""Parameter trees as Flower arrays: one flat array per group, with its layout beside it.

Flower turns every array of a message into an object of its own, with its own HTTP request, so 30
tensors in one flat array save 24 requests a message.
"""

import json
from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from torch import Tensor

from fedmaml.core.errors import MessageError
from fedmaml.core.params import Layout, MetaParams, Params, flatten, layout_of, unflatten


def pack(meta: Mapping[str, Params]) -> tuple[ArrayRecord, ConfigRecord]:
    """Return one flat array per group, and the layouts that `unpack` needs."""
    arrays = ArrayRecord({group: to_array(flatten(params)) for group, params in meta.items()})
    layouts = ConfigRecord()
    for group, params in meta.items():
        layouts[group] = json.dumps(layout_of(params))
    return arrays, layouts


def unpack(arrays: ArrayRecord, layouts: ConfigRecord) -> MetaParams:
    """Undo `pack`."""
    meta: MetaParams = {}
    for group, array in arrays.items():
        layout = _layout(str(layouts[group]))
        meta[group] = unflatten(torch.from_numpy(array.numpy()), layout)
    return meta


def to_array(tensor: Tensor) -> Array:
    """Return a tensor as Flower's array."""
    return Array(tensor.detach().cpu().numpy())


def _layout(text: str) -> Layout:
    return tuple(
        (str(name), tuple(int(size) for size in shape)) for name, shape in json.loads(text)
    )


def arrays_from_meta(meta: MetaParams) -> ArrayRecord:
    """Return theta under its ``state_dict`` names, other groups as ``group/name``.

    The form in which a `FlowerStrategy` hands the model to Flower's own round loop.
    """
    named = dict(meta["theta"])
    for group, params in meta.items():
        if group != "theta":
            named |= {f"{group}/{name}": value for name, value in params.items()}
    return ArrayRecord({name: to_array(value) for name, value in named.items()})


def meta_from_arrays(arrays: ArrayRecord, template: MetaParams) -> MetaParams:
    """Undo `arrays_from_meta`; groups that are not in ``arrays`` come from the template.

    Raises:
        MessageError: If a parameter of theta is missing or has another shape.
    """
    meta: MetaParams = {}
    for group, params in template.items():
        meta[group] = {}
        for name, default in params.items():
            full_name = name if group == "theta" else f"{group}/{name}"
            if full_name not in arrays:
                if group == "theta":
                    raise MessageError("KEYS", f"initial arrays have no parameter {name!r}")
                meta[group][name] = default
                continue
            value = torch.from_numpy(arrays[full_name].numpy()).to(default.dtype)
            if value.shape != default.shape:
                raise MessageError(
                    "SHAPE",
                    f"array {full_name!r} is {tuple(value.shape)}, the network's parameter "
                    f"is {tuple(default.shape)}",
                )
            meta[group][name] = value
    return meta
