"""One call of the kernel of `fused` for updates: its arguments, as in fused.cpp, and results."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from fedmaml import native
from fedmaml.computing.engines.base import Job, Memories, Rows, Total
from fedmaml.computing.engines.fused.chain import Chain
from fedmaml.computing.engines.fused.structures import (
    Laid,
    Network,
    Result,
    group_of,
    network_of,
    recipe_of,
)
from fedmaml.core.aggregation import LIMIT, SPACINGS, ExactSum
from fedmaml.core.kernels import KernelSpec
from fedmaml.core.params import (
    Layout,
    MetaParams,
    Params,
    count_entries,
    flatten,
    layout_of,
    unflatten,
)
from fedmaml.core.tasks import TaskGroup
from fedmaml.strategies.base import ClientUpdate

_KERNELS = {torch.float32: "fused_float32", torch.float64: "fused_float64"}


@dataclass
class Planned:
    """A job in the kernel's terms.

    Attributes:
        spec: The steps.
        chain: The network.
        theta: Layout of theta.
        l2: Of the loss.
    """

    spec: KernelSpec
    chain: Chain
    theta: Layout
    l2: float

    def __post_init__(self) -> None:
        self._networks: dict[Layout, tuple[list[np.ndarray], Network]] = {}

    def network(self, own: Layout) -> Network:
        """Return the network, of which each client keeps some parameters."""
        if own not in self._networks:
            self._networks[own] = network_of(self.chain, self.theta, own, self.l2)
        return self._networks[own][1]


class Call:
    """One call of the kernel; holds every array whose address it passes."""

    def __init__(
        self,
        job: Job,
        planned: Planned,
        groups: Sequence[TaskGroup],
        memories: Memories,
    ) -> None:
        spec, chain = planned.spec, planned.chain
        self._job, self._chain, self._groups = job, chain, groups
        theta = job.meta["theta"]
        learned, weights = spec.adapts.learned, spec.step_weights
        self._sent = {name: job.meta[name] for name in ("theta", learned) if name}
        self._zeros = {weights: job.meta[weights]} if weights else {}
        self._theta = flatten(theta)
        group = group_of(spec.adapts, chain, job.meta, weights)
        own, self._kept = own_of(groups, memories, self._theta.dtype)
        self._laid = Laid(groups, chain, self._theta.dtype, own)
        self._network = planned.network(() if spec.own_model else self._kept)
        self._group, self._recipe = group, recipe_of(spec, chain, group)
        rows = self._laid.rows
        whole = spec.sends in ("difference", "envelope")
        evaluated = rows[0] + rows[1] if whole else rows[1]
        self._weight = evaluated.astype(np.float64)
        self._laid.arguments.weight = self._weight.ctypes.data

    def run(self) -> Rows | Total:
        """Compute the updates: client by client if the job wants them so, else their sum."""
        count, dtype = len(self._laid.clients), self._theta.dtype
        entries = sum(self._sizes)
        as_rows = self._job.form == "stack" or bool(self._kept)
        limbs = torch.from_numpy(np.zeros((len(SPACINGS), 0 if as_rows else entries)))
        stack = torch.empty(count, entries, dtype=dtype) if as_rows else None
        own = torch.empty(count, self._laid.arguments.kept, dtype=dtype)
        losses, sound = np.empty((2, count)), np.empty(count, np.bool_)
        start = losses.ctypes.data
        result = Result(
            limbs.data_ptr(), None if stack is None else stack.data_ptr(),
            own.data_ptr() if self._kept else None,
            start, start + losses.strides[0], sound.ctypes.data, LIMIT,
        )  # fmt: skip
        kernel = getattr(native.library(), _KERNELS[dtype])
        kernel(
            *map(ctypes.byref, (self._network, self._recipe)),
            ctypes.c_void_p(self._theta.data_ptr()),
            *map(ctypes.byref, (self._laid.arguments, result)),
            ctypes.c_int32(native.threads()),
        )
        before, after = torch.from_numpy(losses).to(dtype)
        metrics = {"loss_before": before, "loss_after": after}
        if stack is None:
            return self._total(limbs, metrics, sound)
        if self._chain.loss == 1 and not sound.all():
            refuse_other_classes(self._groups, self._chain.widths[-1])
        memory = unflatten(own, self._kept) if self._kept else {}
        weight = torch.from_numpy(self._weight)
        return Rows(self._laid.clients, ClientUpdate(self._update(stack), weight, metrics, memory))

    @property
    def _sizes(self) -> list[int]:
        """Entries of each group that the kernel computes."""
        return [count_entries({name: params}) for name, params in self._sent.items()]

    def _update(self, stack: Tensor) -> MetaParams:
        """Cut updates into groups and parameters."""
        parts = torch.split(stack, self._sizes, dim=1)
        named = zip(self._sent.items(), parts, strict=True)
        update = {group: unflatten(part, layout_of(params)) for (group, params), part in named}
        return update | _zeros_for(len(stack), self._zeros)

    def _total(self, limbs: Tensor, metrics: dict[str, Tensor], sound: np.ndarray) -> Total:
        """Return the sum, and which clients are in it."""
        clients, weight = self._laid.clients, self._weight
        unsound: tuple[int, ...] = ()
        if not sound.all():
            clients, unsound = (tuple(compress(clients, some)) for some in (sound, ~sound))
            weight = weight[sound]
            metrics = {name: values[torch.from_numpy(sound)] for name, values in metrics.items()}
        whole, terms = float(weight.sum()), len(weight)
        parts = [*torch.split(limbs, self._sizes, dim=1)] if len(self._sent) > 1 else [limbs]
        parts += [limbs.new_zeros(len(limbs), count_entries({"": p})) for p in self._zeros.values()]
        named = zip((*self._sent, *self._zeros), parts, strict=True)
        sums = {group: ExactSum(part, whole, terms) for group, part in named}
        return Total(clients, torch.from_numpy(weight), metrics, sums, unsound)


def _zeros_for(clients: int, groups: MetaParams) -> MetaParams:
    return {
        group: {name: value.new_zeros(clients, *value.shape) for name, value in params.items()}
        for group, params in groups.items()
    }


def own_of(
    groups: Sequence[TaskGroup], memories: Memories, dtype: torch.dtype
) -> tuple[Tensor | None, Layout]:
    """Return what each client keeps, ``(clients, entries)``, and its layout; None if nothing."""
    layout = layout_of(memories[groups[0].clients[0]])
    if not layout:
        return None, layout
    kept: list[Params] = [memories[client] for group in groups for client in group.clients]
    columns = [torch.stack([own[name] for own in kept]).to(dtype) for name, _ in layout]
    return flatten(dict(enumerate(columns)), batch_axes=1), layout  # type: ignore[arg-type]


def refuse_other_classes(groups: Sequence[TaskGroup], classes: int) -> None:
    """Refuse targets out of range: they would make an update NaN, as if it had diverged."""
    for y in (batch.y for group in groups for batch in group.tasks):
        if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise IndexError(f"a target is none of the {classes} classes, which count from 0")
