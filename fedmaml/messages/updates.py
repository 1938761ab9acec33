"""Updates in messages: the arrays of one round, and the checks of those that arrive.

stack        group -> every client's update, ``(clients, entries)``
sum          group -> the limbs of their weighted `ExactSum`, ``(limbs, entries)``, float64
compressed   group -> every client's code, uint8 ``(clients, bytes)``; read as a stack, or as a sum
             if the sum is enough
"""

import math
from collections.abc import Iterator, Sequence

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fedmaml.core.aggregation import LIMIT, SPACINGS, ExactSum, empty_sum, exact_sum, in_range
from fedmaml.core.compression import Compression, code_bytes
from fedmaml.core.compressors import Compressor
from fedmaml.core.errors import MessageError
from fedmaml.core.params import MetaParams, count_entries
from fedmaml.core.requests import Update
from fedmaml.messages.arrays import to_array
from fedmaml.messages.codes import decoded

_GRID = torch.tensor(SPACINGS, dtype=torch.float64)[:, None]
_MAX_DECODED_ENTRIES = 2**20  # of compressed updates at a time
_HEADER_BYTES = 4096  # an .npy header is 128 bytes, more for odd layouts


def write_update(update: Update) -> tuple[ArrayRecord, str]:
    """Return the arrays of an update, compressed or not, and the name of their form."""
    arrays, form = {}, "stack"
    for group, value in update.items():
        if isinstance(value, ExactSum):
            form = "sum"
        elif value.dtype == torch.uint8:
            form = "compressed"
        arrays[group] = to_array(value.limbs if isinstance(value, ExactSum) else value)
    return ArrayRecord(arrays), form


def max_bytes(clients: int, entries: int, groups: int) -> int:
    """Return the bytes of the largest update that `write_update` makes, in any form."""
    rows = len(SPACINGS) + clients
    return 8 * rows * entries + groups * _HEADER_BYTES


def read_update(
    arrays: ArrayRecord,
    form: str,
    weights: Sequence[float],
    *,
    meta: MetaParams,
    summed: bool,
    compression: Compression,
) -> Update:
    """Read and check an update.

    Args:
        arrays: As received; those of all groups are there.
        form: The form that the reply declares.
        weights: The clients' num-examples.
        meta: Meta-parameters of the request.
        summed: Whether the sum is enough.
        compression: How each client was to compress its update.

    Raises:
        MessageError: With the reason, if anything does not fit.
    """
    if extra := sorted(set(arrays) - set(meta)):
        raise MessageError("KEYS", f"unknown arrays {extra} in the update")
    compressor = compression.compressor()
    allowed = ["stack" if compressor is None else "compressed"]
    allowed += ["sum"] if summed else []
    if form not in allowed:
        raise MessageError("KEYS", f"the update is a {form!r}, asked was a {' or '.join(allowed)}")
    stacks: dict[str, Tensor] = {}
    sums: dict[str, ExactSum] = {}
    for group, params in meta.items():
        entries, dtype = count_entries({group: params}), next(iter(params.values())).dtype
        if form == "sum":
            sums[group] = _read_sum(group, arrays[group], weights, entries)
            continue
        exactly = torch.tensor(weights, dtype=torch.float64)
        if compressor is None:
            stacks[group] = _read_stack(group, arrays[group], exactly, entries, dtype)
            continue
        row = code_bytes(compressor.layout(entries, dtype))
        codes = _tensor(group, arrays[group], (len(weights), row), torch.uint8)
        parts = _decoded_by_parts(group, codes, exactly, compressor, entries, dtype)
        if summed:  # never hold them all: a few bytes may stand for many numbers
            sums[group] = _added(parts, entries)
        else:
            blocks = [part for part, _ in parts]
            stacks[group] = torch.cat([torch.zeros(0, entries, dtype=dtype), *blocks])
    return sums or stacks


def _read_sum(group: str, array: Array, weights: Sequence[float], entries: int) -> ExactSum:
    limbs = _tensor(group, array, (len(SPACINGS), entries), torch.float64)
    value = ExactSum(limbs, sum(weights), len(weights))
    _refuse_unsound(group, limbs, _sound_sum(value))
    return value


def _read_stack(
    group: str, array: Array, weights: Tensor, entries: int, dtype: torch.dtype
) -> Tensor:
    value = _tensor(group, array, (len(weights), entries), dtype)
    _refuse_unsound(group, value, bool(in_range(value, weights).all()))
    return value


def _refuse_unsound(group: str, value: Tensor, sound: bool) -> None:
    if sound:
        return
    if not bool(value.isfinite().all()):
        raise MessageError("NONFINITE", f"the update of group {group!r} holds NaN or infinity")
    raise MessageError(
        "RANGE",
        f"the update of group {group!r} has entries too large to be a step "
        f"(num-examples times entry must stay below {LIMIT:.1e})",
    )


def _decoded_by_parts(
    group: str,
    codes: Tensor,
    weights: Tensor,
    compressor: Compressor,
    entries: int,
    dtype: torch.dtype,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the updates of some clients, ``(clients, entries)``, and their weights."""
    size = max(1, _MAX_DECODED_ENTRIES // entries)
    for first in range(0, len(codes), size):
        weight = weights[first : first + size]
        value = decoded(group, codes[first : first + size], compressor, entries, dtype)
        _refuse_unsound(group, value, bool(in_range(value, weight).all()))
        yield value, weight


def _added(parts: Iterator[tuple[Tensor, Tensor]], entries: int) -> ExactSum:
    total = empty_sum(entries)
    for value, weight in parts:
        total = total + exact_sum(value, weight)
    return total


def _sound_sum(value: ExactSum) -> bool:
    """Return whether limbs are whole multiples of their grids, and not larger than possible."""
    multiples = value.limbs / _GRID
    sound = (multiples == multiples.round()) & (multiples.abs() <= value.terms * 2.0**31)
    return bool(sound.all())


def _tensor(group: str, array: Array, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Read an array of a declared shape and type, without trusting the declaration."""
    name = str(dtype).removeprefix("torch.")
    if tuple(array.shape) != shape:
        raise MessageError(
            "SHAPE", f"the array of group {group!r} is {tuple(array.shape)}, expected {shape}"
        )
    if array.dtype != name:
        raise MessageError(
            "DTYPE", f"the array of group {group!r} is {array.dtype}, expected {name}"
        )
    most = math.prod(shape) * dtype.itemsize + _HEADER_BYTES
    if len(array.data) > most:
        raise MessageError("SHAPE", f"the array of group {group!r} has more bytes than it declares")
    value = torch.from_numpy(array.numpy())
    if tuple(value.shape) != shape or value.dtype != dtype:
        raise MessageError("SHAPE", f"the array of group {group!r} is not what it declares to be")
    return value
