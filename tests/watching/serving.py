"""Serve the page of a run that goes on, for tests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmaml.simulations.backends.processes import free_ports
from fedmaml.watching.serving import server_of
from fedmaml.watching.snapshot import Watch


def copied(run: Path, folder: Path, lines: int) -> Path:
    """Return a run that has finished only some of its rounds."""
    folder.mkdir()
    (folder / "config.toml").write_bytes((run / "config.toml").read_bytes())
    kept = (run / "rounds.jsonl").read_text().splitlines(keepends=True)[:lines]
    (folder / "rounds.jsonl").write_text("".join(kept))
    return folder


@contextmanager
def served(watch: Watch) -> Iterator[str]:
    """Serve a page; yields its address."""
    (port,) = free_ports(1)
    server = server_of(watch, port)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
