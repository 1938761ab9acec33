"""The structures of fused.h and fused.cpp in fedmaml/native; networks and clients fill them."""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from itertools import chain as joined

import numpy as np
import torch
from torch import Tensor

from fedmaml.computing.engines.fused.chain import Chain
from fedmaml.core.kernels import Adapts, KernelSpec
from fedmaml.core.params import Layout, MetaParams, Params, flatten
from fedmaml.core.tasks import TaskGroup

_SENDS = ("first-order", "exact", "difference", "nothing", "meta-difference", "envelope")


class Network(ctypes.Structure):
    """A network."""

    _fields_ = (
        ("layers", ctypes.c_int32), ("width", ctypes.c_void_p), ("activation", ctypes.c_void_p),
        ("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p),
        ("entries", ctypes.c_int64), ("shared", ctypes.c_int64),
        ("loss", ctypes.c_int32), ("scale", ctypes.c_double), ("l2", ctypes.c_double),
    )  # fmt: skip


class Learned(ctypes.Structure):
    """What is learned beside theta."""

    _fields_ = (
        ("kind", ctypes.c_int32), ("values", ctypes.c_void_p), ("entries", ctypes.c_int64),
        ("columns", ctypes.c_int32), ("tensors", ctypes.c_int32), ("first", ctypes.c_void_p),
        ("weights", ctypes.c_void_p), ("bias", ctypes.c_int64), ("layer", ctypes.c_int32),
    )  # fmt: skip


class Recipe(ctypes.Structure):
    """The steps."""

    _fields_ = (
        ("sends", ctypes.c_int32), ("steps", ctypes.c_int32),
        ("lr", ctypes.c_double), ("proximal", ctypes.c_double),
        ("low", ctypes.c_int32), ("high", ctypes.c_int32), ("learned", Learned),
        ("own_steps", ctypes.c_int32), ("own_lr", ctypes.c_double),
        ("own_model", ctypes.c_int32), ("own_proximal", ctypes.c_double),
        ("local_steps", ctypes.c_int32), ("local_lr", ctypes.c_double),
    )  # fmt: skip


_Pair = ctypes.c_void_p * 2  # support, query
_COLUMNS = 7  # order, rows, x and y, the latter three of support and query


class Clients(ctypes.Structure):
    """The clients' examples."""

    _fields_ = (
        ("count", ctypes.c_int64), ("order", ctypes.c_void_p), ("rows", _Pair),
        ("x", _Pair), ("y", _Pair), ("weight", ctypes.c_void_p), ("own", ctypes.c_void_p),
        ("kept", ctypes.c_int64),
    )  # fmt: skip


class Result(ctypes.Structure):
    """Where updates go."""

    _fields_ = (
        ("limbs", ctypes.c_void_p), ("stack", ctypes.c_void_p), ("own", ctypes.c_void_p),
        ("before", ctypes.c_void_p), ("after", ctypes.c_void_p), ("sound", ctypes.c_void_p),
        ("limit", ctypes.c_double),
    )  # fmt: skip


class Stages(ctypes.Structure):
    """At which steps predictions are wanted, and where they go."""

    _fields_ = (
        ("count", ctypes.c_int32), ("steps", ctypes.c_void_p),
        ("to", ctypes.c_void_p), ("apart", ctypes.c_void_p), ("sound", ctypes.c_void_p),
    )  # fmt: skip


@lru_cache(maxsize=32)
def network_of(
    chain: Chain, theta: Layout, own: Layout, l2: float
) -> tuple[list[np.ndarray], Network]:
    """Return a network in the kernel's terms, and the arrays whose addresses are in it.

    Args:
        chain: The network.
        theta: Layout of the parameters that all clients share.
        own: Layout of those that each client keeps.
        l2: Of the loss.
    """
    sizes = [math.prod(shape) for _, shape in theta + own]
    names = (name for name, _ in theta + own)
    start = dict(zip(names, accumulate(sizes, initial=0), strict=False))
    places = [
        np.array(chain.widths, np.int32),
        np.array(chain.activations, np.int32),
        np.array([start[layer.weight] for layer in chain.layers]),
        np.array([start[layer.bias] if layer.bias else -1 for layer in chain.layers]),
    ]
    addresses = (int(array.ctypes.data) for array in places)
    numbers = (sum(sizes), sum(sizes[: len(theta)]), chain.loss, chain.scale, l2)
    return places, Network(len(chain.layers), *addresses, *numbers)


@dataclass
class Group:
    """What is learned beside theta, in the kernel's terms; holds every array that it passes.

    Attributes:
        values: All numbers of the group.
        learned: For the kernel.
    """

    values: Tensor
    learned: Learned
    _held: tuple[object, ...] = ()


def group_of(adapts: Adapts, chain: Chain, meta: MetaParams, step_weights: str) -> Group | None:
    """Return the group that an adaptation uses beside theta; None if there is none.

    Args:
        adapts: The adaptation.
        chain: The network.
        meta: The meta-parameters.
        step_weights: Group with the weights of the losses after each step; "" if there is none.
    """
    if not adapts.learned:
        return None
    params = meta[adapts.learned]
    values = flatten(params)
    place, count = values.data_ptr(), len(values)
    if adapts.moves == "context":
        ((name, weights),) = params.items()
        start = dict(zip(meta["theta"], starts_of(meta["theta"]), strict=False))[name]
        layer = [layer.bias for layer in chain.layers].index(name)
        learned = Learned(3, place, count, weights.shape[-1], 0, None, None, start, layer)
        return Group(values, learned)
    if not adapts.by_step:
        return Group(values, Learned(1, place, count))
    first = np.array(starts_of(meta["theta"]))
    weights = flatten(meta[step_weights]) if step_weights else values
    columns = next(iter(params.values())).shape[-1]
    tables = (int(first.ctypes.data), weights.data_ptr())
    return Group(values, Learned(2, place, count, columns, len(params), *tables), (first, weights))


def starts_of(params: Params) -> list[int]:
    """Return where each parameter begins among all entries, and the end of the last."""
    return [*accumulate((value.numel() for value in params.values()), initial=0)]


def recipe_of(spec: KernelSpec, chain: Chain, group: Group | None) -> Recipe:
    """Return the steps in the kernel's terms."""
    inner, head, own, local = spec.inner, spec.own_head, spec.own_model, spec.local
    low, high = layers_that_move(spec.adapts, chain)
    first = own.inner if own else head
    own_steps, own_lr = (first.steps, first.lr) if first else (0, 0.0)
    local_steps, local_lr = (local.steps, local.lr) if local else (0, 0.0)
    return Recipe(
        _SENDS.index(spec.sends), inner.steps, inner.lr, spec.proximal,
        low, chain.head if head else high, group.learned if group else Learned(),
        own_steps, own_lr, own is not None, own.pull if own else 0.0, local_steps, local_lr,
    )  # fmt: skip


def layers_that_move(adapts: Adapts, chain: Chain) -> tuple[int, int]:
    """Return the first layer that moves, and the first behind them."""
    low = chain.head if adapts.moves == "head" else 0
    return low, chain.head if adapts.moves == "body" else len(chain.layers)


class Laid:
    """The examples of clients in the kernel's terms; holds every array whose address it passes.

    Attributes:
        clients: Their numbers.
        rows: Of support and query, ``(2, clients)``.
        arguments: For the kernel; weight is left open.
    """

    def __init__(
        self,
        groups: Sequence[TaskGroup],
        chain: Chain,
        dtype: torch.dtype,
        own: Tensor | None,
        *,
        with_query_targets: bool = True,
    ) -> None:
        clients = [group.clients for group in groups]
        self.clients = clients[0] if len(clients) == 1 else tuple(joined.from_iterable(clients))
        self._own = own
        self._tensors = _tensors(groups, chain, dtype, with_query_targets)
        self._table = table = _order_and_rows(_sizes(groups)).copy()
        self.rows = table[1:3]
        for row, column in enumerate(self._tensors, 3):
            _point(table[row], column)
        first, step = table.ctypes.data, table.strides[0]
        place: list[int | None] = [first + step * row for row in range(_COLUMNS)]
        if not with_query_targets:
            place[-1] = None
        pairs = (_Pair(*place[row : row + 2]) for row in (1, 3, 5))
        kept = (None, 0) if own is None else (own.data_ptr(), own.shape[1])
        self.arguments = Clients(table.shape[1], place[0], *pairs, None, *kept)


def _sizes(groups: Sequence[TaskGroup]) -> tuple[tuple[int, int, int], ...]:
    """Return for each group its clients, support and query rows."""
    return tuple(
        (len(group.clients), group.tasks.support.y.shape[1], group.tasks.query.x.shape[1])
        for group in groups
    )


@lru_cache(maxsize=32)
def _order_and_rows(sizes: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Return a table of each client's order and rows; the rest of its lines is left open.

    Raises:
        ValueError: If a client has no examples.
    """
    counts, *rows = np.array(sizes).T
    if not all(map(np.all, rows)):
        raise ValueError("a client has no examples")
    table = np.empty((_COLUMNS, counts.sum()), np.int64)  # one: an address takes numpy 1 us
    table[1:3] = np.repeat(rows, counts, axis=1)
    table[0] = np.lexsort(table[2:0:-1]) if len(sizes) > 1 else np.arange(table.shape[1])
    return table


def _tensors(
    groups: Sequence[TaskGroup], chain: Chain, dtype: torch.dtype, with_query_targets: bool
) -> list[list[Tensor]]:
    """Return the groups' x of support and query, and their y, as the kernel reads them."""
    inputs, targets = (chain.widths[0],), (chain.widths[-1],) if chain.targets_have_columns else ()
    target_type = torch.int64 if chain.loss == 1 else dtype
    supports, queries = zip(*(group.tasks for group in groups), strict=True)
    return [
        [_as_read(_flat(batch.x), inputs, dtype) for batch in supports],
        [_as_read(_flat(batch.x), inputs, dtype) for batch in queries],
        [_as_read(batch.y, targets, target_type) for batch in supports],
        [_as_read(batch.y, targets, target_type) for batch in queries if with_query_targets],
    ]


def _flat(x: Tensor) -> Tensor:
    return x.flatten(2) if x.ndim > 3 else x


def _as_read(values: Tensor, columns: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if values.shape[2:] != columns:
        raise ValueError(f"examples of shape {tuple(values.shape[2:])}, expected {columns}")
    if values.dtype is not dtype:
        values = values.to(dtype)
    return values if values.is_contiguous() else values.contiguous()


def _point(row: np.ndarray, groups: Sequence[Tensor]) -> None:
    """Write where the examples of each client begin."""
    first = 0
    for values in groups:
        count = values.shape[0]
        start, size = values.data_ptr(), values.nbytes
        row[first : first + count] = np.arange(start, start + size, size // count)
        first += count
