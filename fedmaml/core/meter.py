"""Measures what a computation on tensors costs: operations, and the most memory at a time."""

import gc
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fedmaml.core.costs import Computation


def measure(function: Callable[..., Any], *args: Any) -> Computation:
    """Run a function on trees of tensors and measure its cost.

    Python's cyclic garbage collector is switched off meanwhile, so that the peak does not depend on
    when it happens to run.
    """
    meter = _Meter(args)
    collecting = gc.isenabled()
    gc.disable()
    try:
        with meter:
            function(*args)
    finally:
        if collecting:
            gc.enable()
    return Computation(meter.flops, meter.peak_bytes)


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Run a function on trees of tensors and count its floating-point operations."""
    return measure(function, *args).flops


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation: adds up flops, and follows new storages until they are freed.

    Operations are counted by the formulas of ``torch.utils.flop_counter``. Its own mode would do
    the counting, but holds on to parameters and so distorts the memory.
    """

    def __init__(self, inputs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = weakref.WeakSet(
            value.untyped_storage() for value in tree_leaves(inputs) if isinstance(value, Tensor)
        )
        self._live_bytes = 0
        self.peak_bytes = 0
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say that no compiler needs to be kept away: asking for that would import it."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # the interface is PyTorch's
        del types
        kwargs = kwargs or {}
        formula = _formula(func)
        if formula is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._take(value.untyped_storage())
        return result

    def _take(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._free, size).atexit = False

    def _free(self, size: int) -> None:
        self._live_bytes -= size


def _formula(func: Any) -> Callable[..., int] | None:
    packet = func._overloadpacket
    if packet is torch.ops.aten.convolution_backward:
        return _flops_of_convolution_backward
    return flop_registry.get(packet)


def _flops_of_convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """Count one product of the forward pass's size for each of input and weight, if wanted.

    PyTorch's own formula leaves the groups out, and vmap turns convolutions into grouped ones.
    """
    positions = math.prod((x if transposed else gradient).shape[2:])
    return 2 * len(gradient) * positions * weight.numel() * sum(wanted[:2])
