"""Commands that follow a run: ``fedmaml watch``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedmaml.watching.snapshot import Watch

Port = Annotated[int, typer.Option(help="Of the page, on this machine alone.", min=1, max=65535)]


def watch(
    run: Annotated[Path, typer.Argument(help="Run directory; the run may begin later.")],
    port: Port = 8300,
) -> None:
    """Serve a page that follows a run, and its numbers for Prometheus (/metrics)."""
    from fedmaml.watching.snapshot import Watch

    serve(Watch(run), port)


def serve(watched: "Watch", port: int) -> None:
    """Serve the page of a run until Ctrl-C."""
    from fedmaml.watching.serving import serve as served

    print(f"http://127.0.0.1:{port} follows the run; Ctrl-C ends it", file=sys.stderr)
    served(watched, port)
