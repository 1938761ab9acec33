"""Where the time of a request goes, in cases of `benchmarks.engine`.

    python -m benchmarks.parts [--json FILE]

`fused` is one call of a kernel and Python around it: a stopwatch stands around the call, once in a
row of equal requests, and once with a large matrix product between them, after which caches hold
nothing of them (as the work of other contenders, or of the rest of a round). CPU time, one thread;
medians. PyTorch's profiler says which share the convolutions have of one call, at fedmaml and at
learn2learn; its clock is the wall's, so nothing else should run.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.engine import ours, peers
from benchmarks.engine.cases import CASES, Case
from benchmarks.engine.rounds import Contender
from benchmarks.engine.timing import MatrixProduct, interleaved
from benchmarks.round_overhead import Stopwatch
from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.computing.engines.fused.call import Call

KERNELS = (
    "W2-fomaml", "W2-maml", "W2-meta_sgd", "W2-anil", "W2-fedrep",
    "W1-fomaml-25", "W1-maml-25", "W2-fomaml-10",
)  # fmt: skip
CONVOLUTIONS = ("W3-fomaml", "W3-maml-1", "C4-fomaml-1")
COLUMNS_OF_KERNELS = {
    "case": ["{name}"],
    "clients": ["{clients:,}"],
    "kernel, us a client": ["{kernel:~3}"],
    "of it each inner step": ["{step:~3}"],
    "around it": ["{around:~3}"],
    "kernel, caches cold": ["{cold_kernel:~3}"],
    "around it ": ["{cold_around:~3}"],
}
COLUMNS_OF_CONVOLUTIONS = {
    "case": ["{name}"],
    "fedmaml, us a client": ["{ours:~3}"],
    "of it convolutions": ["{our_share:.0f} %"],
    "learn2learn, us a client": ["{peer:~3}"],
    "of it convolutions ": ["{peer_share:.0f} %"],
}
_TURNS, _MICRO = 60, 1e6


def case_of(name: str) -> Case:
    """Return a case of `benchmarks.engine`."""
    return next(case for case in CASES if case.name == name)


def of_kernel(name: str) -> dict[str, float]:
    """Return microseconds a client inside and outside the kernel, caches warm and cold."""
    case = case_of(name)
    kernel, around = timed(case, lambda: None)
    of_one_step, _ = timed(replace(case, steps=1), lambda: None)
    cold_kernel, cold_around = timed(case, MatrixProduct())
    return {
        "clients": case.clients, "kernel": kernel, "around": around,
        "step": (kernel - of_one_step) / (case.steps - 1),
        "cold_kernel": cold_kernel, "cold_around": cold_around,
    }  # fmt: skip


def timed(case: Case, between: Callable[[], None]) -> tuple[float, float]:
    """Return microseconds a client inside and outside the kernel.

    Args:
        case: What is computed, by `fused`.
        between: Called before each request, and not timed.
    """
    kernel, request = Stopwatch(Call.run), Stopwatch(ours.contender("fused", case.round()))
    with patch.object(Call, "run", lambda self: kernel(self)):
        for _ in range(_TURNS):
            between()
            request()
    inside, total = (statistics.median(watch.seconds[_TURNS // 3 :]) for watch in (kernel, request))
    return inside * _MICRO / case.clients, (total - inside) * _MICRO / case.clients


def of_convolutions(name: str) -> dict[str, float]:
    """Return microseconds a client and the share of convolutions, of fedmaml and learn2learn."""
    case = case_of(name)
    everyone = case.round()
    few = replace(everyone, tasks=everyone.tasks[: case.few])
    own, peer = ours.contender("factored", everyone), peers.learn2learn(few)
    own()
    peer()  # both are warm now
    times, _ = interleaved({"ours": own, "peer": peer}, seconds=0.0)
    return {
        "ours": times["ours"].processor * _MICRO / case.clients,
        "peer": times["peer"].processor * _MICRO / case.few,
        "our_share": 100 * share_of_convolutions(own),
        "peer_share": 100 * share_of_convolutions(peer),
    }


def share_of_convolutions(compute: Contender) -> float:
    """Return the share of a call's time that the operations that convolve take themselves."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        began = time.perf_counter()
        compute()
        whole = time.perf_counter() - began
    operations = profiled.key_averages()
    took = sum(each.self_cpu_time_total for each in operations if "convolution" in each.key)
    return float(took) / _MICRO / whole


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_json_option(parser)
    arguments = parser.parse_args()
    tables = {"kernels": Table(COLUMNS_OF_KERNELS, {name: of_kernel(name) for name in KERNELS})}
    convolutions = {name: of_convolutions(name) for name in CONVOLUTIONS}
    tables["convolutions"] = Table(COLUMNS_OF_CONVOLUTIONS, convolutions)
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
