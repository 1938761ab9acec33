"""Targets of fedmaml's best engine, and whether this run reached them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.engine.measure import FLOWER, Row


@dataclass(frozen=True)
class Target:
    """A ratio that must be reached: a peer's time over that of fedmaml's fastest engine.

    Attributes:
        case: Name of the case.
        peers: Peers of the ratio; the first that was timed counts.
        ratio: The least.
    """

    case: str
    peers: tuple[str, ...]
    ratio: float


_L2L = ("learn2learn", "deepcopy loop")
_CHUNKS = ("JAX jit(lax.map of vmap)", "JAX jit(vmap)")
_LOOP = ("deepcopy loop",)
TARGETS = (
    Target("W1-fomaml", _L2L, 200),
    Target("W1-maml", ("learn2learn",), 110),
    Target("W2-fomaml", _L2L, 350),
    Target("W2-fomaml", _LOOP, 350),
    Target("W2-fomaml", ("JAX jit(vmap)",), 6),
    Target("W2-fomaml", _CHUNKS, 5),
    Target("W2-maml", _CHUNKS, 6),
    Target("W1-fomaml-25", _CHUNKS, 1.5),
    Target("W1-maml-25", _CHUNKS, 1.5),
    Target("W2-fomaml-10", _CHUNKS, 1),
    Target("W2-meta_sgd", _CHUNKS, 4),
    Target("W2-meta_sgd", ("learn2learn",), 150),
    Target("W2-anil", _CHUNKS, 4),
    Target("W2-anil", ("learn2learn",), 150),
    Target("W2-protonet", _CHUNKS, 1.5),
    Target("W2-fedrep", _CHUNKS, 3),
    Target("W2-fomaml", (FLOWER,), 2000),
    Target("W2-maml", ("learn2learn",), 220),
    Target("W3-fomaml-1", _L2L, 1.5),
    Target("W3-fomaml", _L2L, 1.5),
    Target("W3-maml-1", ("learn2learn",), 1.4),
    Target("W3-protonet", _LOOP, 3),
    Target("C4-fomaml-1", ("learn2learn",), 1.5),
    Target("GRU-fomaml", ("learn2learn",), 1.1),
    Target("W4-fomaml", _LOOP, 1.5),
    Target("MLP-1e6", _LOOP, 2.8),
    Target("MLP-1e7", _LOOP, 5.5),
)
MAX_UNEQUAL = 1.25
"""Time per example of clients of unequal size, over that of clients of equal size."""


def evaluated(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return target, what was reached, by which engine, and the verdict, for the cases that ran."""
    cases = {row.case for row in rows}
    lines = {
        f"{target.case}, {target.peers[0]}": _line(target, rows)
        for target in TARGETS
        if target.case in cases
    }
    if {"W2-unequal", "W2-fomaml"} <= cases:
        costs = []
        for case in ("W2-unequal", "W2-fomaml"):
            row = _fastest_of_ours(case, rows)
            costs.append((row.microseconds_per_client or 0.0) / row.examples_per_client)
        value = costs[0] / costs[1]
        lines["W2-unequal"] = {
            "case": "W2-unequal",
            "target": f"<= {MAX_UNEQUAL}x the time per example of equal sizes",
            "reached": value,
            "verdict": _verdict(value <= MAX_UNEQUAL),
        }
    return lines


def _line(target: Target, rows: Sequence[Row]) -> dict[str, Any]:
    times = {
        row.contender: row.microseconds_per_client
        for row in rows
        if row.case == target.case and row.microseconds_per_client
    }
    peer = next((name for name in target.peers if name in times), None)
    line = {
        "case": target.case,
        "target": f">= {target.ratio:g}x {peer or ' or '.join(target.peers)}",
    }
    if peer is None:
        return line | {"verdict": "not measured: the peer was not timed"}
    ours = _fastest_of_ours(target.case, rows)
    value = (times[peer] or 0.0) / (ours.microseconds_per_client or 1.0)
    verdict = _verdict(value >= target.ratio)
    return line | {"reached": value, "engine": ours.contender, "verdict": verdict}


def _fastest_of_ours(case: str, rows: Sequence[Row]) -> Row:
    ours = [
        row
        for row in rows
        if row.case == case and row.contender.startswith("fedmaml") and row.microseconds_per_client
    ]
    return min(ours, key=lambda row: row.microseconds_per_client or 0.0)


def _verdict(reached: bool) -> str:
    return "reached" if reached else "NOT reached"
