"""What federated learning costs: bytes, floating-point operations, memory and time.

A `Computation` is the cost of one client's update; a `Cost` is that of a whole round or run.
docs/costs.md says how each number is measured, and derives the operations by hand.
"""

import gc
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fedmaml.core.counters import Units, add_counted, counted_from_json, counted_json


@dataclass(frozen=True)
class Computation:
    """The cost of one client's computation.

    Attributes:
        flops: Floating-point operations of matrix products and convolutions; a multiplication and
            an addition are two.
        peak_bytes: Most bytes that tensors made by the computation occupy at one time; its inputs
            (parameters, examples) and buffers inside PyTorch's kernels are not counted.
    """

    flops: int
    peak_bytes: int

    def __add__(self, then: "Computation") -> "Computation":
        """Return the cost of one computation followed by the other."""
        return Computation(self.flops + then.flops, max(self.peak_bytes, then.peak_bytes))


NO_COMPUTATION = Computation(0, 0)


@dataclass(frozen=True)
class Cost:
    """The cost of a round; costs of rounds add up.

    Attributes:
        clients: Clients selected, each counted in every round that selects it.
        updates: Clients whose updates were used, counted likewise.
        payload_bytes_down: Bytes of the tensors that the selected clients receive, as sites of
            one client each.
        payload_bytes_up: Bytes of the updates of the clients used, after compression if there is
            any, as sites of one client each.
        messages_down: Messages to nodes.
        messages_up: Replies that arrived.
        message_bytes_down: Bytes of the messages as Flower serialises them.
        message_bytes_up: Bytes of the replies as Flower serialises them.
        updates_measured: Clients used that reported what they computed.
        flops: Operations of those clients.
        peak_bytes: Largest peak of any of those clients; None if there is none.
        seconds_clients: Wall time spent waiting for replies, transport included.
        seconds_server: The rest of the wall time.
        counters: Units that the examples of the clients used cost, by name of the counter; {}
            where the scenario declares none.
    """

    clients: int = 0
    updates: int = 0
    payload_bytes_down: int = 0
    payload_bytes_up: int = 0
    messages_down: int = 0
    messages_up: int = 0
    message_bytes_down: int = 0
    message_bytes_up: int = 0
    updates_measured: int = 0
    flops: int = 0
    peak_bytes: int | None = None
    seconds_clients: float = 0.0
    seconds_server: float = 0.0
    counters: dict[str, Units] = field(default_factory=dict)

    def __add__(self, other: "Cost") -> "Cost":
        """Add everything, but take the larger peak."""
        peaks = [cost.peak_bytes for cost in (self, other) if cost.peak_bytes is not None]
        sums = {
            each.name: getattr(self, each.name) + getattr(other, each.name)
            for each in fields(Cost)
            if each.name not in ("peak_bytes", "counters")
        }
        counters = add_counted((self.counters, other.counters))
        return Cost(**sums, peak_bytes=max(peaks, default=None), counters=counters)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, seconds to the microsecond; counters only where there are any."""
        record = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }
        if not self.counters:
            del record["counters"]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Cost":
        """Undo `to_json`."""
        counters = counted_from_json(record.get("counters", {}))
        return cls(**{**record, "counters": counters})

    def per_client_and_round(self) -> dict[str, Any]:
        """Return means over clients; None where there are none."""
        counters = {name: units / self.updates for name, units in self.counters.items()}
        return {
            "payload_bytes_down": _ratio(self.payload_bytes_down, self.clients),
            "payload_bytes_up": _ratio(self.payload_bytes_up, self.updates),
            "flops": _ratio(self.flops, self.updates_measured),
            "peak_bytes": self.peak_bytes,
            **({"counters": counted_json(counters)} if counters else {}),
        }

    def per_message(self) -> dict[str, float | None]:
        """Return means over messages; None where there are none."""
        return {
            "bytes_down": _ratio(self.message_bytes_down, self.messages_down),
            "bytes_up": _ratio(self.message_bytes_up, self.messages_up),
        }


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


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None
