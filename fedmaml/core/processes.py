"""Refuses scripts that start runs with workers without ``if __name__ == "__main__":``.

A worker process first imports the script that started it. Without that line the import would start
the run again in every worker.
"""

import multiprocessing
import sys

from fedmaml.core.errors import ConfigurationError

WORKER = "fedmaml-worker"
"""Name of a worker process."""
STARTED_A_RUN = 97
"""Exit code of a worker process whose script would have started the run again."""


def refuse_while_importing_script() -> None:
    """Refuse to begin a run in a process that only imports the script that started it.

    Raises:
        SystemExit: In a worker of fedmaml; its node reports the reason.
        ConfigurationError: In any other process that a script has started.
    """
    process = multiprocessing.current_process()
    if not getattr(process, "_inheriting", False):  # the flag that multiprocessing itself checks
        return
    if process.name == WORKER:
        sys.exit(STARTED_A_RUN)
    raise ConfigurationError(no_guard())


def no_guard() -> str:
    """Return the error: what the script lacks, and the cure."""
    script = getattr(sys.modules["__main__"], "__file__", None) or "the script"
    return (
        f"{script} starts a run while its own processes import it, which would start the run again "
        "in each of them: put what it runs below `if __name__ == '__main__':`"
    )
