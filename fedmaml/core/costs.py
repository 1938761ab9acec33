"""What federated learning costs: bytes, floating-point operations, memory and time.

A `Computation` is the cost of one client's update; a `Cost` is that of a whole round or run.
`core.meter` measures. docs/costs.md says how, and derives the operations by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

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
            for name, value in vars(self).items()
        }
        record["counters"] = counted_json(self.counters)
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


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None
