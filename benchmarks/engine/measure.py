"""One case: every contender is checked against float64, and those that are right are timed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.engine import flower_round, ours, peers, reference
from benchmarks.engine.cases import Case
from benchmarks.engine.jax_peer import JaxRound
from benchmarks.engine.rounds import (
    Contender,
    NotInstalledError,
    RefusedError,
    Round,
    Seconds,
)
from benchmarks.engine.timing import MatrixProduct, interleaved
from fedmaml.computing.engines import ENGINES

FLOWER = "Flower, Ray, one client per node"


class Entry(NamedTuple):
    """A contender's factory, and which of the case's numbers of clients it gets."""

    make: Callable[[Round], Contender]
    share: Literal["few", "together", "all"]


CONTENDERS: dict[str, Entry] = {
    "deepcopy loop": Entry(peers.deepcopy_loop, "few"),
    "learn2learn": Entry(peers.learn2learn, "few"),
    "higher": Entry(peers.higher, "few"),
    "TorchOpt": Entry(peers.torchopt, "few"),
    "torch.func loop": Entry(reference.loop, "few"),
    "torch.func.vmap": Entry(reference.vectorised, "together"),
    "JAX jit(vmap)": Entry(JaxRound, "together"),
    # the strongest JAX that was found: weights of 100 clients stay in cache
    "JAX jit(lax.map of vmap)": Entry(partial(JaxRound, together=100), "together"),
    **{
        f"fedmaml {name}": Entry(partial(ours.contender, name), "few" if name == "loop" else "all")
        for name in ENGINES
    },
}


@dataclass(frozen=True)
class Row:
    """The result of one contender in one case; None where it was not timed.

    Attributes:
        case: Name of the case.
        workload: Name of the workload.
        algorithm: The algorithm.
        contender: Name of the contender.
        status: "timed", "wrong", "not installed" or "refused".
        clients: How many clients it was timed on.
        microseconds_per_client: Processor time.
        wall_microseconds_per_client: Wall time.
        ratio: How many times as fast as the case's base.
        peak_fraction: Operations per second as a fraction of the matrix product's.
        relative_difference: To the float64 loop.
        flops_per_client: Operations of an update by the reference's way to compute it.
        examples_per_client: Mean number of examples, support and query.
        parameters: Entries of theta.
        note: A remark.
    """

    case: str
    workload: str
    algorithm: str
    contender: str
    status: Literal["timed", "wrong", "not installed", "refused"]
    clients: int
    microseconds_per_client: float | None = None
    wall_microseconds_per_client: float | None = None
    ratio: float | None = None
    peak_fraction: float | None = None
    relative_difference: float | None = None
    flops_per_client: float = 0.0
    examples_per_client: float = 0.0
    parameters: int = 0
    note: str = ""


def measure(case: Case, seconds: float, contenders: Mapping[str, Entry] = CONTENDERS) -> list[Row]:
    """Check and time the contenders of one case.

    Args:
        case: What to compute.
        seconds: Wall time to spend on timing, at least; seven turns are always taken.
        contenders: The contenders.
    """
    everyone = case.round()
    numbers = {"few": case.few, "together": case.together or case.clients, "all": case.clients}
    rounds = {
        number: replace(everyone, tasks=everyone.tasks[:number]) for number in set(numbers.values())
    }
    expected = {number: reference.loop(some, torch.float64)() for number, some in rounds.items()}
    flops = {number: reference.flops_per_client(some) for number, some in rounds.items()}
    rows: list[Row] = []
    sound: dict[str, Contender] = {}
    for name, entry in contenders.items():
        clients = numbers[entry.share]
        round_ = rounds[clients]
        row = _empty(case, name, round_, flops[clients])
        try:
            contender = entry.make(round_)
            rows.append(_checked(case, row, contender(), expected[clients]))
        except (NotInstalledError, RefusedError) as error:
            missing = isinstance(error, NotInstalledError)
            status: Literal["not installed", "refused"] = "not installed" if missing else "refused"
            rows.append(replace(row, status=status, note=str(error)))
            continue
        if rows[-1].status == "timed":
            sound[name] = contender
        elif isinstance(contender, JaxRound):
            contender.close()
    times, turns = interleaved({"": MatrixProduct(), **sound}, seconds)
    for contender in sound.values():
        if isinstance(contender, JaxRound):
            contender.close()
    peak = MatrixProduct.flops / times.pop("").processor
    note = f"{turns} turns, peak {peak / 1e9:.0f} GFLOP/s"
    rows = [_timed(row, times.get(row.contender), peak, note) for row in rows]
    if case.flower:
        rows.append(_flower(case, everyone, peak))
    return _with_ratios(rows, case.base)


def _empty(case: Case, contender: str, round_: Round, flops: float) -> Row:
    clients = len(round_.tasks)
    return Row(
        case.name,
        case.workload,
        case.algorithm,
        contender,
        "timed",
        clients,
        flops_per_client=flops,
        examples_per_client=round_.examples() / clients,
        parameters=sum(value.numel() for value in round_.workload.theta().values()),
    )


def _checked(case: Case, row: Row, result: Tensor, expected: Tensor) -> Row:
    difference = reference.relative_difference(result, expected)
    if difference <= case.tolerance:  # false for NaN, too
        return replace(row, relative_difference=difference)
    note = f"differs from float64 by {difference:.1e}"
    return replace(row, status="wrong", relative_difference=difference, note=note)


def _timed(row: Row, seconds: Seconds | None, peak: float, note: str) -> Row:
    if seconds is None or row.status != "timed":
        return row
    each = seconds.processor / row.clients
    return replace(
        row,
        microseconds_per_client=1e6 * each,
        wall_microseconds_per_client=1e6 * seconds.wall / row.clients,
        peak_fraction=row.flops_per_client / each / peak,
        note=note,
    )


def _flower(case: Case, everyone: Round, peak: float) -> Row:
    """Run Flower's simulation by itself; it is checked like the others."""
    round_ = replace(everyone, tasks=everyone.tasks[: case.flower])
    row = _empty(case, FLOWER, round_, reference.flops_per_client(round_))
    try:
        result, seconds = flower_round.measure(case.workload, round_)
    except NotInstalledError as error:
        return replace(row, status="not installed", note=str(error))
    row = _checked(case, row, result, reference.loop(round_, torch.float64)())
    return _timed(row, seconds, peak, "in a run of its own, with all its processes")


def _with_ratios(rows: list[Row], base: str) -> list[Row]:
    """Compare with the base or, if it was not timed, with the first contender that was."""
    timed = {row.contender: row.microseconds_per_client for row in rows if row.status == "timed"}
    unit = timed.get(base) or next(iter(timed.values()), None)
    return [
        replace(row, ratio=unit / row.microseconds_per_client)
        if unit and row.microseconds_per_client
        else row
        for row in rows
    ]
