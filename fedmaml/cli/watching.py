"""Commands that follow a run: ``fedmaml watch`` and ``fedmaml coordinator status``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmaml.cli.options import Json

if TYPE_CHECKING:
    from fedmaml.watching.snapshot import Watch

Port = Annotated[int, typer.Option(help="Of the page, on this machine alone.", min=1, max=65535)]


def watch(
    run: Annotated[Path, typer.Argument(help="Run directory; the run may begin later.")],
    port: Port = 8300,
) -> None:
    """Serve a page that follows a run, and its numbers for Prometheus (/metrics)."""
    from fedmaml.watching.snapshot import Watch

    if not run.exists():
        print(f"{run} is not there yet: the page waits for it", file=sys.stderr)
    serve(Watch(run), port)


def status(
    folder: Annotated[Path, typer.Argument(help="Folder of the coordinator.", metavar="DIR")],
    page: Annotated[bool, typer.Option("--serve", help="Serve a page that follows it.")] = False,
    port: Port = 8300,
    as_json: Json = False,
) -> None:
    """Show the run of a coordinator, and the state of each site."""
    from fedmaml.provisioning.status import federation_of, run_of
    from fedmaml.watching.snapshot import Watch

    watched = Watch(run_of(folder), lambda: federation_of(folder))
    if page:
        serve(watched, port)
    elif as_json:
        print(json.dumps(watched.snapshot()))
    else:
        for line in lines(watched.snapshot()):
            print(line)


def serve(watched: "Watch", port: int) -> None:
    """Serve the page of a run until Ctrl-C."""
    from fedmaml.watching.serving import serve as served

    print(f"http://127.0.0.1:{port} follows the run; Ctrl-C ends it", file=sys.stderr)
    served(watched, port)


def lines(state: dict[str, Any]) -> list[str]:
    """Return a snapshot as text."""
    why = f": {state['why']}" if state.get("why") else ""
    found = [f"{state['run']}: {state['phase']}{why}"]
    if "title" in state:
        left = state["seconds_left"]
        found.append(
            f"{state['title']}: round {state['round']} of {state['rounds']}"
            + (f", {left:.0f} s left" if left is not None else "")
        )
    found += [
        f"  {site['name']}: {site['state']}" + (f": {site['reason']}" if site["reason"] else "")
        for site in state["sites"]
    ]
    return found
