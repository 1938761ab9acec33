"""The command line for tests: in this process, or in one of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest

from fedmaml.cli import main

COMMAND = [sys.executable, "-m", "fedmaml.cli"]
WIDTH = {"COLUMNS": "80"}

Done = subprocess.CompletedProcess[str]


def fedmaml(*arguments: str, cwd: Path) -> Done:
    """Run a command in this process: to start one and import PyTorch takes 2 s.

    What is logged goes to pytest, not to standard error.
    """
    out, err = StringIO(), StringIO()
    with (
        own_signals(),
        chdir(cwd), redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, WIDTH),
        patch.object(sys, "argv", ["fedmaml", *arguments]), pytest.raises(SystemExit) as ended,
    ):  # fmt: skip
        main()
    return Done(arguments, int(ended.value.code or 0), out.getvalue(), err.getvalue())


@contextmanager
def own_signals() -> Iterator[None]:
    """Undo what a command does to the handlers of signals, for which it has a process to itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before |= {signal.SIGHUP: signal.getsignal(signal.SIGHUP)} if os.name != "nt" else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fedmaml_process(*arguments: str, cwd: Path) -> Done:
    """Run a command in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, check=False, timeout=280,
        env=os.environ | WIDTH,
    )  # fmt: skip
