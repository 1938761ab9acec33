"""The progress bar: reads the run directory, so it is the same on every back end.

Log records of this process appear above the bar meanwhile.
"""

import json
import logging
import threading
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from fedmaml.config import RunConfig
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.showing import console_of_progress, in_notebook, shown

_logger = logging.getLogger("fedmaml")


class _AboveTheBar(logging.Handler):
    """Prints records where they do not tear the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        self._console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class RunProgress:
    """Shows round, query loss before and after adaptation, and time left, while a run goes on.

    Args:
        directory: The run directory.
        config: The run.
        enabled: Whether to show anything.
    """

    def __init__(self, directory: RunDirectory, config: RunConfig, *, enabled: bool) -> None:
        self._path = directory.path / "rounds.jsonl"
        self._rounds = config.rounds
        self._split = config.evaluation.split
        self._enabled = enabled
        self._showing = ExitStack()
        self._stop = threading.Event()
        self._position = 0
        self._finished = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console_of_progress(),
            disable=in_notebook() or not enabled,
        )
        self._handler = _AboveTheBar(self._progress.console)
        self._level = _logger.level
        label = f"{config.scenario} {config.strategy}"
        self._task = self._progress.add_task(label, total=self._rounds, loss="starting")
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "RunProgress":
        """Start watching."""
        if self._enabled:
            self._showing.enter_context(shown(self._progress, enabled=True))
            self._thread.start()
            self._level = _logger.level
            _logger.setLevel(logging.INFO)
            _logger.addHandler(self._handler)
        return self

    def __exit__(self, *_exception: object) -> None:
        """Show the last state and stop."""
        if self._enabled:
            _logger.removeHandler(self._handler)
            _logger.setLevel(self._level)
            self._stop.set()
            self._thread.join()
            self._update()
            self._progress.update(self._task, loss="")
            self._showing.close()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self._update()

    def _update(self) -> None:
        if not self._path.exists():
            return
        with self._path.open() as file:
            file.seek(self._position)
            text = file.read()
        complete, newline, _ = text.rpartition("\n")
        if not newline:
            return
        lines = complete.splitlines()
        self._position += len((complete + newline).encode())
        self._finished += len(lines)
        record: dict[str, Any] = json.loads(lines[-1])
        last = self._finished >= self._rounds
        text = f"evaluation {self._split} clients" if last else _losses(record["metrics"])
        self._progress.update(self._task, completed=self._finished, loss=text)


def _losses(metrics: dict[str, float]) -> str:
    before, after = metrics.get("loss_before"), metrics.get("loss_after")
    if after is None:
        return ""
    return f"loss {after:.4f}" if before is None else f"loss {before:.4f} → {after:.4f}"
