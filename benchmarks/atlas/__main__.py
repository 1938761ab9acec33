"""Compare strategies on the systems of the atlas, and write what its pages hold.

    python -m benchmarks.atlas [NAME ...] [--out DIR] [--jobs N] [--json docs/data/atlas.json]

Each system is a file of experiments/atlas. Its runs go to DIR/NAME, and those of the same
strategies without anything to learn (on shuffled labels, unless the file says how) to
DIR/NAME-shuffled; complete ones are reused, so after Ctrl-C the same command goes on. With --json
the tables and docs/figures/atlas.svg are written; systems that were not named stay in the file as
they are. With --jobs that many systems run at the same time, each in a process of its own.
`make numbers` then writes the pages.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.atlas.bands import reached, table_of_bands
from benchmarks.atlas.picture import draw
from benchmarks.atlas.systems import EXPERIMENTS, System, read_system
from benchmarks.atlas.verdicts import MAP, row_of_map, table_of_methods
from benchmarks.drawing import FIGURES
from benchmarks.tables import Table, add_json_option, print_tables, tables_in, write
from fedmaml.api.comparing import Compared, compared
from fedmaml.runs.directory import RunDirectory

_BANDS = "_expected"  # after a system's name: the table of its bands
TOTAL = {"systems": ["{systems}"], "hours of runs": ["{hours:~2}"]}
PICTURE = FIGURES / "atlas.svg"


def compare_on(system: System, out: Path) -> tuple[Compared, Compared | None]:
    """Return the comparison of a system, and the one where there is nothing to learn."""

    def made(suffix: str, seeds: int, tune: int | None, null: Mapping[str, Any]) -> Compared:
        return compared(
            system.scenario, system.strategies, seeds, [dict(system.settings), dict(null)],
            equal=system.equal, tune=tune, out=out / f"{system.name}{suffix}", progress=True,
            report=False,
        )  # fmt: skip

    true = made("", system.seeds, system.tune, {})
    return true, made("-shuffled", 1, None, system.null) if system.null else None


def minutes_of(comparisons: Iterable[Compared]) -> float:
    """Return how long the runs took by their own clocks, in minutes, with those that tuned."""
    runs = [run for each in comparisons for run in each.runs]
    runs += [run for each in comparisons for run in each.folder.glob("tuning/*/trial*")]
    return sum((RunDirectory(run).summary() or {"seconds": 0})["seconds"] for run in runs) / 60


def run_apart(names: Sequence[str], out: Path, jobs: int) -> None:
    """Run systems in processes of their own, ``jobs`` at a time; what they print goes to a file.

    Raises:
        SystemExit: If one ends with an error, after the others have ended.
    """
    out.mkdir(parents=True, exist_ok=True)

    def run(name: str) -> int:
        command = [sys.executable, "-m", "benchmarks.atlas", name, "--out", str(out)]
        began, log = time.monotonic(), out / f"{name}.log"
        with log.open("w") as file:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
        minutes = (time.monotonic() - began) / 60
        print(f"{name}: {minutes:.1f} min{f', FAILED, see {log}' * bool(code)}", flush=True)
        return code

    with ThreadPoolExecutor(jobs) as pool:
        failed = sum(map(bool, pool.map(run, names)))
    if failed:
        raise SystemExit(
            f"{failed} of {len(names)} systems failed; after mending, repeat the command"
        )


def with_bands(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Return the tables with title and expected figures of each system, as its file says now.

    And with the sum of the minutes that the runs of all systems took.
    """
    kept = {name: table for name, table in tables.items() if not name.endswith(_BANDS)}
    rows = {}
    for name, row in tables["map"].rows.items():
        system, methods = read_system(EXPERIMENTS / f"{name}.toml"), tables[name].rows
        bands = system.bands
        rows[name] = {**row, "title": system.title, "bands": reached(bands, methods) or None}
        if bands:
            kept[f"{name}{_BANDS}"] = table_of_bands(bands, methods)
    hours = sum(row.get("minutes") or 0 for row in rows.values()) / 60
    total = {"all": {"systems": len(rows), "hours": hours}}
    return {**kept, "map": Table(MAP, rows), "total": Table(TOTAL, total)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="systems; default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/atlas"), help="folder of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="systems at the same time")
    add_json_option(parser)
    arguments = parser.parse_args()
    known = sorted(file.stem for file in EXPERIMENTS.glob("*.toml"))
    names = arguments.names or known
    if arguments.jobs > 1:
        run_apart(names, arguments.out, arguments.jobs)
    tables = tables_in(arguments.json) or {"map": Table(MAP, {})}
    for system in [read_system(EXPERIMENTS / f"{name}.toml") for name in names]:
        true, shuffled = compare_on(system, arguments.out)
        minutes = minutes_of([true, shuffled] if shuffled else [true])
        row = row_of_map(system.title, true.comparison)
        row |= {"minutes": minutes, "trials": system.tune}
        rows = {**tables["map"].rows, system.name: row}
        tables["map"] = Table(MAP, dict(sorted(rows.items())))
        chance = shuffled.comparison if shuffled else None
        tables[system.name] = table_of_methods(true.comparison, chance, system.figures)
        print_tables({system.name: tables[system.name]})
        tables = with_bands(tables)
        if arguments.json:
            there = list(tables["map"].rows)
            of_all = ["python -m benchmarks.atlas", *(there if there != known else [])]
            write(arguments.json, tables, command=" ".join(of_all))
            draw(tables["map"].rows, PICTURE)
    print_tables({"map": tables["map"]})


if __name__ == "__main__":
    main()
