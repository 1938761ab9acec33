"""One call of the kernel of `fused`: its arguments, as in fedmaml/native/fused.cpp, and results."""

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, compress

import numpy as np
import torch
from torch import Tensor

from fedmaml import native
from fedmaml.computing.engines.base import Job, Rows, Total
from fedmaml.computing.engines.fused.chain import Chain
from fedmaml.core.aggregation import LIMIT, SPACINGS, ExactSum
from fedmaml.core.kernels import KernelSpec
from fedmaml.core.params import Layout, flatten, layout_of, unflatten
from fedmaml.core.tasks import TaskGroup
from fedmaml.strategies.base import ClientUpdate

_SENDS = {"first-order": 0, "exact": 1, "difference": 2}


class _Network(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.c_int32), ("width", ctypes.c_void_p), ("activation", ctypes.c_void_p),
        ("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("entries", ctypes.c_int64),
        ("loss", ctypes.c_int32), ("scale", ctypes.c_double), ("l2", ctypes.c_double),
    )  # fmt: skip


class _Spec(ctypes.Structure):
    _fields_ = (
        ("sends", ctypes.c_int32), ("steps", ctypes.c_int32),
        ("lr", ctypes.c_double), ("proximal", ctypes.c_double),
    )  # fmt: skip


_Pair = ctypes.c_void_p * 2  # support, query
_COLUMNS = 7  # order, rows, x and y, the latter three of support and query
_KERNELS = {torch.float32: "fused_float32", torch.float64: "fused_float64"}


class _Clients(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64), ("order", ctypes.c_void_p), ("rows", _Pair),
        ("x", _Pair), ("y", _Pair), ("weight", ctypes.c_void_p),
    )  # fmt: skip


class _Result(ctypes.Structure):
    _fields_ = (
        ("limbs", ctypes.c_void_p), ("stack", ctypes.c_void_p), ("before", ctypes.c_void_p),
        ("after", ctypes.c_void_p), ("sound", ctypes.c_void_p), ("limit", ctypes.c_double),
    )  # fmt: skip


class Call:
    """One call of the kernel; holds every array whose address it passes."""

    def __init__(
        self, job: Job, spec: KernelSpec, chain: Chain, groups: Sequence[TaskGroup]
    ) -> None:
        self._job, self._chain, self._groups, theta = job, chain, groups, job.meta["theta"]
        self._theta = flatten(theta)
        self._kept, self._network = _network(chain, layout_of(theta), job.learner.problem.l2)
        self._recipe = _Spec(_SENDS[spec.sends], spec.inner.steps, spec.inner.lr, spec.proximal)
        self._clients = tuple(client for group in groups for client in group.clients)
        self._table, self._tensors = _laid_out(groups, chain, self._theta.dtype)
        rows = self._table[1:3]
        self._table[0] = np.lexsort(rows[::-1]) if len(groups) > 1 else np.arange(rows.shape[1])
        evaluated = rows[0] + rows[1] if spec.sends == "difference" else rows[1]
        if not evaluated.all() or not rows[0].all():
            raise ValueError("a client has no examples")
        self._weight = evaluated.astype(np.float64)
        first, step = self._table.ctypes.data, self._table.strides[0]
        column = [first + step * i for i in range(_COLUMNS)]
        self._arguments = _Clients(
            len(self._clients),
            column[0],
            *(_Pair(*column[i : i + 2]) for i in (1, 3, 5)),
            self._weight.ctypes.data,
        )

    def run(self) -> Rows | Total:
        """Compute the updates: client by client if the job wants them so, else their sum."""
        count, entries, dtype = len(self._clients), len(self._theta), self._theta.dtype
        limbs = torch.from_numpy(np.zeros((len(SPACINGS), entries)))
        stack = torch.empty(count, entries, dtype=dtype) if self._job.form == "stack" else None
        losses, sound = np.empty((2, count)), np.empty(count, np.bool_)
        start = losses.ctypes.data
        result = _Result(
            limbs.data_ptr(), None if stack is None else stack.data_ptr(),
            start, start + losses.strides[0], sound.ctypes.data, LIMIT,
        )  # fmt: skip
        kernel = getattr(native.library(), _KERNELS[dtype])
        kernel(
            *map(ctypes.byref, (self._network, self._recipe)),
            ctypes.c_void_p(self._theta.data_ptr()),
            *map(ctypes.byref, (self._arguments, result)),
        )
        before, after = torch.from_numpy(losses).to(dtype)
        metrics = {"loss_before": before, "loss_after": after}
        if stack is None:
            return self._total(limbs, metrics, sound)
        if self._chain.loss == 1 and not sound.all():
            _refuse_other_classes(self._groups, self._chain.widths[-1])
        update = {"theta": unflatten(stack, layout_of(self._job.meta["theta"]))}
        return Rows(
            self._clients, ClientUpdate(update, torch.from_numpy(self._weight), metrics, {})
        )

    def _total(self, limbs: Tensor, metrics: dict[str, Tensor], sound: np.ndarray) -> Total:
        """Return the sum, and which clients are in it."""
        clients, weight = self._clients, self._weight
        unsound: tuple[int, ...] = ()
        if not sound.all():
            clients, unsound = (tuple(compress(clients, some)) for some in (sound, ~sound))
            weight = weight[sound]
            metrics = {name: values[torch.from_numpy(sound)] for name, values in metrics.items()}
        total = ExactSum(limbs, float(weight.sum()), len(weight))
        return Total(clients, torch.from_numpy(weight), metrics, {"theta": total}, unsound)


def _laid_out(
    groups: Sequence[TaskGroup], chain: Chain, dtype: torch.dtype
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
            support.y.shape[1], query.y.shape[1],
            *place(support.x.flatten(2), inputs, dtype), *place(query.x.flatten(2), inputs, dtype),
            *place(support.y, targets, target_type), *place(query.y, targets, target_type),
        ))  # fmt: skip
    in_group = np.arange(sum(sizes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    of_each = np.repeat(np.array(places).T, sizes, axis=1)
    table = np.empty((_COLUMNS, len(in_group)), np.int64)  # one array: an address takes numpy 1 us
    table[1:3] = of_each[:2]
    table[3:] = of_each[2::2] + of_each[3::2] * in_group
    return table, kept


def _refuse_other_classes(groups: Sequence[TaskGroup], classes: int) -> None:
    """Refuse targets out of range: they would make an update NaN, as if it had diverged."""
    for y in (batch.y for group in groups for batch in group.tasks):
        if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise IndexError(f"a target is none of the {classes} classes, which count from 0")


@lru_cache(maxsize=32)
def _network(chain: Chain, layout: Layout, l2: float) -> tuple[list[np.ndarray], _Network]:
    """Return a network in the kernel's terms, and the arrays whose addresses are in it."""
    sizes = [math.prod(shape) for _, shape in layout]
    start = dict(zip((name for name, _ in layout), accumulate(sizes, initial=0), strict=False))
    places = [
        np.array(chain.widths, np.int32),
        np.array(chain.activations, np.int32),
        np.array([start[layer.weight] for layer in chain.layers]),
        np.array([start[layer.bias] if layer.bias else -1 for layer in chain.layers]),
    ]
    addresses = (int(array.ctypes.data) for array in places)
    numbers = (sum(sizes), chain.loss, chain.scale, l2)
    return places, _Network(len(chain.layers), *addresses, *numbers)
