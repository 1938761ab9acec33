"""The command; see the package's docstring."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import engine
from benchmarks.engine.cases import CASES, CLIENT_SWEEP, SIZE_SWEEP, Case
from benchmarks.engine.measure import Row, measure
from benchmarks.engine.shown import PACKAGES, of_case, tables, targets
from benchmarks.tables import add_json_option, write
from fedmaml import native

_SECONDS = 6.0
_QUICK_SECONDS = 0.3


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description=engine.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few clients, little time")
    parser.add_argument("--cases", help="names separated by commas; all by default")
    add_json_option(parser)
    parser.add_argument("--plots", type=Path, help="folder for the figures, of further cases")
    parser.add_argument(
        "--flower-clients",
        type=int,
        help="clients of Flower's own simulation (its time per client grows); 0: leave it out",
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"Kernels in C++: {native.missing() or f'built by {native.compiled_by()}'}")
    seconds = _QUICK_SECONDS if chosen.quick else _SECONDS
    rows: list[Row] = []
    for case in _cases(chosen.cases, parser):
        if case.flower and chosen.flower_clients is not None:
            case = replace(case, flower=min(chosen.flower_clients, case.clients))
        rows += _shown(case.quick() if chosen.quick else case, seconds)
        _write(rows, chosen.json)
    print("\n## Targets\n")
    if chosen.quick:
        print("With --quick these are not meaningful: too few clients, too little time.\n")
    print(targets(rows).markdown())
    if chosen.plots:
        from benchmarks.engine import plots

        for case in CLIENT_SWEEP + SIZE_SWEEP:
            rows += _shown(case.quick() if chosen.quick else case, seconds / 2)
            _write(rows, chosen.json)
        plots.draw(rows, chosen.plots)


def _cases(names: str | None, parser: argparse.ArgumentParser) -> list[Case]:
    if names is None:
        return list(CASES)
    known = {case.name: case for case in (*CASES, *CLIENT_SWEEP, *SIZE_SWEEP)}
    wanted = [name for name in names.split(",") if name]
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"no case {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in wanted]


def _shown(case: Case, seconds: float) -> list[Row]:
    """Measure a case and print its table."""
    rows = measure(case, seconds)
    flops = rows[0].flops_per_client
    print(
        f"\n## {case.name}: {case.algorithm}, {case.steps} steps, {case.clients} clients, "
        f"{flops / 1e6:.3g} MFLOP per client\n"
    )
    print(of_case(rows).markdown(), flush=True)
    return rows


def _write(rows: list[Row], file: Path | None) -> None:
    """Write all rows so far: a run that is stopped loses nothing."""
    if file:
        write(file, tables(rows), PACKAGES)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
