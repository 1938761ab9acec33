"""The other half of `benchmarks.against`: answers with CPU seconds, case by case.

It runs under the code of any commit (PYTHONPATH says which), so it imports nothing but what all of
them have. Lines in: ``prepare CASE ENGINE`` and ``time``; lines out: ``ready``, ``refused`` and
seconds.
"""

import sys
import time
from dataclasses import replace

import torch

from benchmarks.engine import ours
from benchmarks.engine.cases import CASES
from benchmarks.engine.rounds import RefusedError

_SHORTEST = 0.02  # seconds; what is faster is repeated, because the clock is coarse


def main() -> None:
    torch.set_num_threads(1)
    cases = {case.name: case for case in CASES}
    compute, repeats = None, 1
    for line in sys.stdin:
        words = line.split()
        if words[0] == "prepare":
            case = cases.get(words[1])
            if case is None or words[2] not in ours.ENGINES:  # younger than this checkout
                print("refused", flush=True)
                continue
            round_ = case.round()
            if words[2] == "loop":
                round_ = replace(round_, tasks=round_.tasks[: case.few])
            try:
                compute = ours.contender(words[2], round_)
                compute()
                repeats = max(1, round(_SHORTEST / _seconds(compute)))
                print("ready", flush=True)
            except RefusedError:
                print("refused", flush=True)
        else:
            print(sum(_seconds(compute) for _ in range(repeats)) / repeats, flush=True)


def _seconds(compute: ours.Contender) -> float:
    started = time.process_time()
    compute()
    return time.process_time() - started


if __name__ == "__main__":
    main()
