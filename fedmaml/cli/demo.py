"""``fedmaml demo``: three methods on real data, once; also what ``make demo`` runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmaml.cli.options import OUT, imports_are_done

STRATEGIES = ("local", "fedavg", "fomaml")
SETTINGS: Mapping[str, Any] = {"scenario": "digits"}


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder; a demo that it holds is overwritten.", **OUT)
    ] = Path("runs/demo"),
) -> None:
    """Train FedAvg, FOMAML and local models once on real data; show and report them.

    Needs no file and no network, and some seconds.
    """
    from fedmaml.config import resolve
    from fedmaml.report import missing_libraries, write_report
    from fedmaml.running import execute
    from fedmaml.tables.runs import run_table

    imports_are_done()
    summaries = []
    for strategy in STRATEGIES:
        config = resolve({**SETTINGS, "strategy": strategy})
        print(f"{strategy}:", flush=True)
        summaries.append(execute(config, out / strategy, force=True, progress=True))
    print()
    run_table(summaries)
    if missing := ", ".join(missing_libraries()):
        print(f"No report: {missing} not installed (pip install 'fedmaml[report]')")
    else:
        written = write_report([out], force=True)
        print(written.headline)
        print(f"Report: {written.page}")
    print()
    print("That was one training run of each, which shows how it works and proves nothing.")
    print("Is FOMAML better? Ask with five seeds (some minutes), which ends in tested differences:")
    print("    fedmaml compare digits --strategies fomaml --seeds 5")
