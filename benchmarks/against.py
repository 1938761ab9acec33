"""Is anything slower than at another commit? CPU time of every engine, here and there, by turns.

python -m benchmarks.against COMMIT [--cases W2-fomaml,...] [--engines fused,...] [--json FILE]

Every case of `benchmarks.engine` on every engine that takes it, and three whole runs. Both codes
compute in processes of their own that take turns, so that the machine's drift meets both alike; a
ratio above 1.05 is worth a look, and the spread of the turns' own ratios says how sure it is.
"""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.engine.cases import CASES
from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.computing.engines import ENGINES

HERE = Path(__file__).parents[1]
RUNS = {
    "run sinusoid maml, 200 rounds": "run sinusoid --strategy maml --rounds 200",
    "run digits fomaml, 150 rounds": "run digits --strategy fomaml --rounds 150",
    "run digits protonet, 50 rounds": "run digits --strategy protonet --rounds 50",
}
MIN_TURNS, MAX_TURNS = 5, 41  # turns
Timer = Callable[[], float]


class Worker:
    """A process that computes cases with the code of one checkout."""

    def __init__(self, tree: Path) -> None:
        """Start it."""
        self._tree = tree
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "benchmarks/against_worker.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(tree),
        )  # fmt: skip

    def prepare(self, case: str, engine: str) -> bool:
        """Compute a case once; False if the engine does not take it."""
        return self._ask(f"prepare {case} {engine}") == "ready"

    def seconds(self) -> float:
        """Return the CPU seconds of one round of the prepared case."""
        return float(self._ask("time"))

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _ask(self, line: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise SystemExit(f"the worker of {self._tree} ended at {line!r}; see above")
        return answer


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which Python takes the code of a checkout, on one thread."""
    return {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}


def run_seconds(tree: Path, command: str) -> float:
    """Return the CPU seconds of a command of fedmaml, its child processes included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            [sys.executable, "-P", "-c", "from fedmaml.cli import main; main()",
             *command.split(), "--out", f"{out}/run"],
            check=True, capture_output=True, env=environment(tree), cwd=out,
        )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def by_turns(here: Timer, there: Timer, seconds: float) -> dict[str, Any]:
    """Return the medians of both in milliseconds, their ratio, and the quartiles of the turns'."""
    end = time.perf_counter() + seconds
    taken: dict[Timer, list[float]] = {here: [], there: []}
    order = [here, there]
    while len(taken[here]) < MIN_TURNS or (
        len(taken[here]) < MAX_TURNS and time.perf_counter() < end
    ):
        random.shuffle(order)
        for one in order:
            taken[one].append(one())
    ratios = [a / b for a, b in zip(taken[here], taken[there], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    medians = [1e3 * statistics.median(taken[one]) for one in (here, there)]
    return {
        "here": medians[0], "there": medians[1], "ratio": medians[0] / medians[1],
        "quartiles": [low, high],
    }  # fmt: skip


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check a commit out beside this one, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def measure(
    tree: Path, cases: Sequence[str], engines: Sequence[str], seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the values of every row."""
    here, there = Worker(HERE), Worker(tree)
    for case in cases:
        for engine in engines:
            if here.prepare(case, engine) and there.prepare(case, engine):
                yield f"{case}, {engine}", by_turns(here.seconds, there.seconds, seconds)
    here.close()
    there.close()
    for name, command in RUNS.items():

        def ours(command: str = command) -> float:
            return run_seconds(HERE, command)

        def theirs(command: str = command) -> float:
            return run_seconds(tree, command)

        yield name, by_turns(ours, theirs, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", help="to compare with, e.g. HEAD~1")
    parser.add_argument("--cases", help="names separated by commas; all by default, '' for none")
    parser.add_argument("--engines", default=",".join(ENGINES), help="names separated by commas")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each row, at least")
    add_json_option(parser)
    chosen = parser.parse_args()
    cases = [case.name for case in CASES]
    if chosen.cases is not None:
        cases = [name for name in chosen.cases.split(",") if name]
    rows = {}
    with checked_out(chosen.commit) as tree:
        for name, values in measure(tree, cases, chosen.engines.split(","), chosen.seconds):
            rows[name] = values
            print(f"{name}: {values['ratio']:.3f}", flush=True)
    columns = {
        "case, engine": ["{name}"], "here, ms": ["{here:~3}"],
        f"{chosen.commit}, ms": ["{there:~3}"], "ratio": ["{ratio:.2f}"],
        "quartiles of the turns": ["{quartiles:.2f}"],
    }  # fmt: skip
    tables = {"CPU time of a round": Table(columns, rows)}
    print_tables(tables)
    if chosen.json:
        write(chosen.json, tables)


if __name__ == "__main__":
    main()
