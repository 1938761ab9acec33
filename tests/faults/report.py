"""A plugin of pytest: runs the tests of `tests.faults.rows`, says which faults are survived.

Beside their results it looks at what the tests left behind: every complete run that a test did not
spoil on purpose must have all its rounds, a sound chain and finite meta-parameters. Tests add by
``record_property``:

    identical resume    whether a run that was killed and resumed ended in the same bits
    detection seconds   from a fault to its detection
    spoiled             the test damaged its runs on purpose
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmaml.core.errors import FedmamlError
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.verifying import verify
from tests.faults.rows import ROWS, SPOILING

RESUME, SECONDS, SPOILED = "identical resume", "detection seconds", "spoiled"
_ROW, _ROUNDS_LOST, _CORRUPT = "row", "rounds lost", "silent corruption"


def rows_of(node_id: str) -> list[str]:
    """Return the rows that a test belongs to."""
    below = node_id.removeprefix("tests/")
    return [name for name, row in ROWS.items() if any(map(below.startswith, row.shown_by))]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the rows; each of them must be there."""
    below = [item.nodeid.removeprefix("tests/") for item in items]
    files = {name.partition("::")[0] for name in below}
    for start in {start for row in ROWS.values() for start in row.shown_by}:
        there = any(name.startswith(start) for name in below)
        if start.partition("::")[0] in files and not there:
            raise pytest.UsageError(
                f"tests/faults/rows.py names {start}, and there is no such test"
            )
    kept = [item for item in items if rows_of(item.nodeid)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    for item in kept:
        item.user_properties += [(_ROW, name) for name in rows_of(item.nodeid)]
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Look at the complete runs that a test leaves."""
    yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    below = item.nodeid.removeprefix("tests/")
    spoiled = (SPOILED, True) in item.user_properties or below.startswith(SPOILING)
    for summary in [] if folder is None or spoiled else sorted(folder.rglob("summary.json")):
        lost, sound = _looked_at(summary.parent)
        item.user_properties.append((_ROUNDS_LOST, lost))
        item.user_properties.append((_CORRUPT, not sound))


def _looked_at(path: Path) -> tuple[int, bool]:
    """Return how many rounds a complete run lacks, and whether it is what it says."""
    directory = RunDirectory(path)
    try:
        lost = directory.config_table()["rounds"] - len(directory.rounds())
        verify(directory)
        meta = directory.load_meta()
    except FedmamlError:
        return 0, False
    return lost, all(bool(v.isfinite().all()) for group in meta.values() for v in group.values())


class Report:
    """Collects results; prints the rows and one line for all."""

    def __init__(self) -> None:
        self.results: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.figures: dict[str, list[float]] = defaultdict(list)
        self.corrupt: list[str] = []
        self.hangs = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take up what a test showed."""
        if report.when == "call" or report.failed:
            self.hangs += report.failed and "Timeout" in str(report.longrepr)[-500:]
            for name, value in report.user_properties:
                if name == _ROW:
                    result = "pending" if hasattr(report, "wasxfail") else report.outcome
                    self.results[str(value)][result].append(report.nodeid)
                elif name != SPOILED:
                    self.figures[name].append(float(value))  # type: ignore[arg-type]
                    if name == _CORRUPT and value:
                        self.corrupt.append(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print one line for each row, and the line for all."""
        write = terminalreporter.write_line
        write("")
        shown = {
            name: results for name, results in self.results.items() if set(results) - {"skipped"}
        }
        survived = [
            name for name, results in shown.items() if not {"failed", "pending"} & set(results)
        ]
        for name, row in ROWS.items():
            if name in shown:
                tests = ", ".join(f"{len(ids)} {what}" for what, ids in shown[name].items())
                sign = "survived" if name in survived else "NOT     "
                write(f"{sign}  {name}: {row.fault} -> {row.required}  ({tests})")
        missing = [name for name in ROWS if name not in shown]
        if missing:
            write(f"not run: {', '.join(missing)}")
        for node_id in dict.fromkeys(self.corrupt):
            write(f"a complete run of {node_id} is not sound")
        resumes = self.figures[RESUME]
        write(
            f"faults survived {len(survived)}/{len(shown)}, "
            f"rounds lost {sum(self.figures[_ROUNDS_LOST]):.0f}, "
            f"silent corruptions {sum(self.figures[_CORRUPT]):.0f}, hangs {self.hangs}, "
            f"identical resumes {sum(resumes):.0f}/{len(resumes)}, "
            f"p95 detection {_p95(self.figures[SECONDS])} seconds"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Report where the results of all processes come together."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report(), "faults")


def _p95(values: list[float]) -> str:
    return f"{sorted(values)[math.ceil(0.95 * len(values)) - 1]:.2f}" if values else "-"
