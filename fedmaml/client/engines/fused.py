"""`fused`: small fully connected networks in one C++ kernel, whose vector lanes are clients.

fedmaml/native/fused.cpp has the mathematics. A client's update does not depend on who shares its
vector, so its bits are the same in any cohort; clients of unequal size need no groups.
"""

import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, compress
from itertools import chain as chain_of
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedmaml import native
from fedmaml.client.engines.base import Engine, Job, Memories, Rows, Total
from fedmaml.client.engines.layers import Elementwise, Flatten, Linear, layers_of
from fedmaml.client.engines.recipes import NO_RECIPE, UNKNOWN_LOSS, Recipe, recipe_of
from fedmaml.core import losses
from fedmaml.core.aggregation import LIMIT, SPACINGS, ExactSum
from fedmaml.core.learner import Learner
from fedmaml.core.params import Layout, count_entries, device_of, flatten, layout_of, unflatten
from fedmaml.core.tasks import TaskGroup
from fedmaml.strategies.base import ClientUpdate

_LARGEST_BLOCK_BYTES = 32 * 2**20
_WORTHWHILE_ENTRIES = 30_000
_SENDS = {"first-order": 0, "exact": 1, "difference": 2}
_ACTIVATIONS = {None: 0, "relu": 1, "tanh": 2}


@dataclass(frozen=True)
class _Chain:
    """A network in the kernel's terms.

    Attributes:
        layers: Its linear layers.
        activations: After each of them.
        loss: Number of the loss.
        scale: Of squared errors.
        targets_have_columns: Whether targets have an axis of outputs.
    """

    layers: tuple[Linear, ...]
    activations: tuple[int, ...]
    loss: int
    scale: float
    targets_have_columns: bool

    @property
    def widths(self) -> list[int]:
        """Inputs of each layer, and outputs of the last."""
        return [self.layers[0].inputs, *(layer.outputs for layer in self.layers)]


class Fused(Engine):
    """Small networks, a client per vector lane, all steps in cache."""

    name: ClassVar[str] = "fused"
    about: ClassVar[str] = "small fully connected networks in C++, a client per vector lane"
    least_share: ClassVar[int] = 256

    def refusal(self, job: Job) -> str:
        """Say why it cannot compute a job; builds the kernel if nothing else is in the way."""
        recipe = recipe_of(job.strategy)
        if recipe is None:
            return NO_RECIPE
        chain = _chain(job.learner)
        if isinstance(chain, str):
            return chain
        device = device_of(job.meta)
        if device.type != "cpu":
            return f"it runs on the CPU, and the parameters are on {device}"
        copies = 3 + (recipe.steps if recipe.sends == "exact" else 0)
        block_bytes = 64 * copies * count_entries(job.meta)
        if block_bytes > _LARGEST_BLOCK_BYTES:
            return f"the network is too large for it ({block_bytes / 2**20:.0f} MiB a block)"
        return native.missing()

    def objection(self, job: Job) -> str:
        """Say that a larger network is faster elsewhere."""
        if count_entries(job.meta) > _WORTHWHILE_ENTRIES:
            return f"it does not pay above {_WORTHWHILE_ENTRIES:,} parameters"
        return ""

    def client_batch(self, job: Job) -> int:
        """Return how many clients' tasks are made at a time; more of them are not faster."""
        return 2048

    def compute(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories
    ) -> Iterator[Rows | Total]:
        """Yield all clients at once."""
        recipe, chain = recipe_of(job.strategy), _chain(job.learner)
        if recipe is None or isinstance(chain, str):
            raise ValueError(self.refusal(job))
        yield _Call(job, recipe, chain, groups).run()


@lru_cache(maxsize=32)
def _chain(learner: Learner) -> _Chain | str:
    """Return a learner's network and loss in the kernel's terms, or why that cannot be."""
    layers = layers_of(learner.network)
    if isinstance(layers, str):
        return f"the network is not a chain of layers: {layers}"
    linear: list[Linear] = []
    activations: list[int] = []
    for layer in layers:
        match layer:
            case Linear():
                linear.append(layer)
                activations.append(0)
            case Elementwise() if linear and not activations[-1] and layer != layers[-1]:
                activations[-1] = _ACTIVATIONS[layer.function]
            case Flatten() if not linear:
                pass
            case _:
                return f"{type(layer).__name__} is not a layer that it knows at its place"
    if not linear:
        return "the network has no linear layer"
    outputs = linear[-1].outputs
    known = {
        losses.squared_error: (0, 1 / outputs, True),
        losses.half_squared_error: (0, 0.5, False),
        losses.cross_entropy: (1, 0.0, False),
        losses.binary_cross_entropy: (2, 0.0, False),
    }
    if learner.problem.loss not in known:
        return UNKNOWN_LOSS
    if outputs != 1 and learner.problem.loss in (
        losses.half_squared_error,
        losses.binary_cross_entropy,
    ):
        return f"the loss is for one output, and there are {outputs}"
    return _Chain(tuple(linear), tuple(activations), *known[learner.problem.loss])


# --- the kernel's arguments, as in fused.cpp -----------------------------------------------------


class _Network(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.c_int32), ("width", ctypes.c_void_p), ("activation", ctypes.c_void_p),
        ("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("entries", ctypes.c_int64),
        ("loss", ctypes.c_int32), ("scale", ctypes.c_double), ("l2", ctypes.c_double),
    )  # fmt: skip


class _Recipe(ctypes.Structure):
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


class _Call:
    """One call of the kernel; holds every array whose address it passes."""

    def __init__(
        self, job: Job, recipe: Recipe, chain: _Chain, groups: Sequence[TaskGroup]
    ) -> None:
        self._job, theta = job, job.meta["theta"]
        self._theta = flatten(theta)
        self._kept, self._network = _network(chain, layout_of(theta), job.learner.problem.l2)
        self._recipe = _Recipe(_SENDS[recipe.sends], recipe.steps, recipe.lr, recipe.proximal)
        self._clients = tuple(chain_of.from_iterable(group.clients for group in groups))
        count, dtype = len(self._clients), self._theta.dtype
        table = np.empty((_COLUMNS, count), np.int64)  # one array: an address takes numpy 1 us
        order, rows, data = table[0], table[1:3], table[3:7]
        target_type = torch.int64 if chain.loss == 1 else dtype
        inputs = (chain.widths[0],)
        targets = (chain.widths[-1],) if chain.targets_have_columns else ()
        self._tensors: list[Tensor] = []
        sizes, places = [], []
        for group in groups:
            support, query = group.tasks
            sizes.append(len(group.clients))
            places.append((
                support.y.shape[1], query.y.shape[1],
                *self._place(support.x.flatten(2), inputs, dtype),
                *self._place(query.x.flatten(2), inputs, dtype),
                *self._place(support.y, targets, target_type),
                *self._place(query.y, targets, target_type),
            ))  # fmt: skip
        in_group = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        of_each = np.repeat(np.array(places).T, sizes, axis=1)
        rows[:] = of_each[:2]
        data[:] = of_each[2::2] + of_each[3::2] * in_group
        order[:] = np.lexsort(rows[::-1]) if len(groups) > 1 else in_group
        judged = rows[0] + rows[1] if recipe.sends == "difference" else rows[1]
        if not judged.all() or not rows[0].all():
            raise ValueError("a client has no examples")
        self._weight = judged.astype(np.float64)
        self._table = table
        start = table.ctypes.data
        column = [start + i * table.strides[0] for i in range(_COLUMNS)]
        self._arguments = _Clients(
            count,
            column[0],
            *(_Pair(*column[i : i + 2]) for i in (1, 3, 5)),
            self._weight.ctypes.data,
        )

    def run(self) -> Rows | Total:
        count, entries, dtype = len(self._clients), len(self._theta), self._theta.dtype
        limbs = torch.from_numpy(np.zeros((len(SPACINGS), entries)))
        stack = torch.empty(count, entries, dtype=dtype) if self._job.form == "stack" else None
        before, after = values = np.empty((2, count))
        sound = np.empty(count, np.bool_)
        start = values.ctypes.data
        result = _Result(
            limbs.data_ptr(), None if stack is None else stack.data_ptr(),
            start, start + values.strides[0], sound.ctypes.data, LIMIT,
        )  # fmt: skip
        kernel = getattr(native.library(), _KERNELS[dtype])
        kernel(
            *map(ctypes.byref, (self._network, self._recipe)),
            ctypes.c_void_p(self._theta.data_ptr()),
            *map(ctypes.byref, (self._arguments, result)),
        )
        weight = torch.from_numpy(self._weight)
        before, after = torch.from_numpy(values).to(dtype)
        metrics = {"loss_before": before, "loss_after": after}
        if stack is not None:
            update = {"theta": unflatten(stack, layout_of(self._job.meta["theta"]))}
            return Rows(self._clients, ClientUpdate(update, weight, metrics, {}))
        if sound.all():
            total = ExactSum(limbs, float(self._weight.sum()), count)
            return Total(self._clients, weight, metrics, {"theta": total})
        left = torch.from_numpy(sound)
        total = ExactSum(limbs, float(self._weight[sound].sum()), int(sound.sum()))
        return Total(
            clients=tuple(compress(self._clients, sound)),
            weight=weight[left],
            metrics={name: values[left] for name, values in metrics.items()},
            sums={"theta": total},
            unsound=tuple(compress(self._clients, ~sound)),
        )

    def _place(self, each: Tensor, columns: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int]:
        """Return where the first client's data begins, and how many bytes each client has."""
        if each.shape[2:] != columns:
            raise ValueError(f"examples of shape {tuple(each.shape[2:])}, expected {columns}")
        laid_out = each.to(dtype).contiguous()
        self._tensors.append(laid_out)
        return laid_out.data_ptr(), laid_out.nbytes // len(each)


@lru_cache(maxsize=32)
def _network(chain: _Chain, layout: Layout, l2: float) -> tuple[list[np.ndarray], _Network]:
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
