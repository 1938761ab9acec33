"""The structures of fused.h and fused.cpp in fedmaml/native; networks and clients fill them."""

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from fedmaml.computing.engines.fused.chain import Chain
from fedmaml.core.kernels import Adapts, KernelSpec
from fedmaml.core.params import Layout
from fedmaml.core.tasks import TaskGroup

_SENDS = {"first-order": 0, "exact": 1, "difference": 2, "nothing": 3}


class Network(ctypes.Structure):
    """A network."""

    _fields_ = (
        ("layers", ctypes.c_int32), ("width", ctypes.c_void_p), ("activation", ctypes.c_void_p),
        ("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p),
        ("entries", ctypes.c_int64), ("shared", ctypes.c_int64),
        ("loss", ctypes.c_int32), ("scale", ctypes.c_double), ("l2", ctypes.c_double),
    )  # fmt: skip


class Recipe(ctypes.Structure):
    """The steps."""

    _fields_ = (
        ("sends", ctypes.c_int32), ("steps", ctypes.c_int32),
        ("lr", ctypes.c_double), ("proximal", ctypes.c_double),
        ("low", ctypes.c_int32), ("high", ctypes.c_int32), ("rates", ctypes.c_void_p),
        ("own_steps", ctypes.c_int32), ("own_lr", ctypes.c_double),
    )  # fmt: skip


_Pair = ctypes.c_void_p * 2  # support, query
_COLUMNS = 7  # order, rows, x and y, the latter three of support and query


class Clients(ctypes.Structure):
    """The clients' examples."""

    _fields_ = (
        ("count", ctypes.c_int64), ("order", ctypes.c_void_p), ("rows", _Pair),
        ("x", _Pair), ("y", _Pair), ("weight", ctypes.c_void_p), ("own", ctypes.c_void_p),
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


def recipe_of(spec: KernelSpec, chain: Chain, rates: Tensor | None) -> Recipe:
    """Return the steps in the kernel's terms."""
    inner, head = spec.inner, spec.own_head
    low, high = layers_that_move(spec.adapts, chain)
    own_steps, own_lr = (head.steps, head.lr) if head else (0, 0.0)
    return Recipe(
        _SENDS[spec.sends], inner.steps, inner.lr, spec.proximal, low, chain.head if head else high,
        None if rates is None else rates.data_ptr(), own_steps, own_lr,
    )  # fmt: skip


def layers_that_move(adapts: Adapts, chain: Chain) -> tuple[int, int]:
    """Return the first layer that moves, and the first behind them."""
    return chain.head if adapts.moves == "head" else 0, len(chain.layers)


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
        self.clients = tuple(client for group in groups for client in group.clients)
        self._own = own
        self._table, self._tensors = _laid_out(groups, chain, dtype, with_query_targets)
        self.rows = rows = self._table[1:3]
        self._table[0] = np.lexsort(rows[::-1]) if len(groups) > 1 else np.arange(rows.shape[1])
        if not rows.all():
            raise ValueError("a client has no examples")
        first, step = self._table.ctypes.data, self._table.strides[0]
        column: list[int | None] = [first + step * i for i in range(_COLUMNS)]
        if not with_query_targets:
            column[-1] = None
        self.arguments = Clients(
            len(self.clients), column[0], *(_Pair(*column[i : i + 2]) for i in (1, 3, 5)), None,
            None if own is None else own.data_ptr(),
        )  # fmt: skip


def _laid_out(
    groups: Sequence[TaskGroup], chain: Chain, dtype: torch.dtype, with_query_targets: bool
) -> tuple[np.ndarray, list[Tensor]]:
    """Return for each client how many examples it has and where they begin.

    Returns:
        A column for each client, of which the first number is left open; and the tensors that the
        addresses point into.
    """
    kept: list[Tensor] = []

    def place(values: Tensor, columns: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int]:
        if values.shape[2:] != columns:
            raise ValueError(f"examples of shape {tuple(values.shape[2:])}, expected {columns}")
        kept.append(values := values.to(dtype).contiguous())
        return values.data_ptr(), values.nbytes // len(values)

    inputs, targets = (chain.widths[0],), (chain.widths[-1],) if chain.targets_have_columns else ()
    target_type = torch.int64 if chain.loss == 1 else dtype
    sizes, places = [], []
    for group in groups:
        support, query = group.tasks
        sizes.append(len(group.clients))
        places.append((
            support.y.shape[1], query.x.shape[1],
            *place(support.x.flatten(2), inputs, dtype), *place(query.x.flatten(2), inputs, dtype),
            *place(support.y, targets, target_type),
            *(place(query.y, targets, target_type) if with_query_targets else (0, 0)),
        ))  # fmt: skip
    in_group = np.arange(sum(sizes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    of_each = np.repeat(np.array(places).T, sizes, axis=1)
    table = np.empty((_COLUMNS, len(in_group)), np.int64)  # one array: an address takes numpy 1 us
    table[1:3] = of_each[:2]
    table[3:] = of_each[2::2] + of_each[3::2] * in_group
    return table, kept
