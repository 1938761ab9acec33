"""Parameter trees as Flower arrays: one flat array per group, with its layout beside it.

Flower turns every array of a message into an object of its own, with its own HTTP request, so 30
tensors in one flat array save 24 requests a message. A group of several types, as only memories and
statistics are, has an array for each type, ``<group>/<type>``, so that every value keeps its own.
"""

import json
from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from torch import Tensor

from fedmaml.core.errors import MessageError
from fedmaml.core.params import MetaParams, Params, flatten, layout_of, unflatten


def pack(meta: Mapping[str, Params]) -> tuple[ArrayRecord, ConfigRecord]:
    """Return one flat array per group and type, and the layouts that `unpack` needs."""
    arrays: dict[str, Array] = {}
    layouts = ConfigRecord()
    for group, params in meta.items():
        of_types = _by_type(params)
        mixed = len(of_types) > 1
        for dtype, part in of_types.items():
            arrays[f"{group}/{dtype}" if mixed else group] = to_array(flatten(part))
        layouts[group] = json.dumps(
            [(*row, _type(params[row[0]])) if mixed else row for row in layout_of(params)]
        )
    return ArrayRecord(arrays), layouts


def unpack(arrays: ArrayRecord, layouts: ConfigRecord) -> MetaParams:
    """Undo `pack`."""
    meta: MetaParams = {}
    for group, text in layouts.items():
        rows = [(str(name), tuple(shape), *dtype) for name, shape, *dtype in json.loads(str(text))]
        of_names: Params = {}
        for dtype in dict.fromkeys(row[2:] for row in rows):
            flat = torch.from_numpy(arrays["/".join((group, *dtype))].numpy())
            of_names |= unflatten(flat, tuple(row[:2] for row in rows if row[2:] == dtype))
        meta[group] = {name: of_names[name] for name, *_ in rows}
    return meta


def _by_type(params: Params) -> dict[str, Params]:
    """Return type -> its parameters, in their order."""
    parts: dict[str, Params] = {}
    for name, value in params.items():
        parts.setdefault(_type(value), {})[name] = value
    return parts


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def to_array(tensor: Tensor) -> Array:
    """Return a tensor as Flower's array."""
    return Array(tensor.detach().cpu().numpy())


def arrays_from_meta(meta: MetaParams) -> ArrayRecord:
    """Return theta under its ``state_dict`` names, other groups as ``group/name``.

    A `FlowerStrategy` passes the model to Flower's own round loop in this form.
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
