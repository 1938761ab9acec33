"""Commands of the coordinator: ``fedmaml coordinator init|run|status|verify|renew|files``."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedmaml.cli import watching
from fedmaml.cli.options import (
    OUT,
    Clients,
    ConfigFile,
    Json,
    Rounds,
    ScenarioName,
    Seed,
    Settings,
    StrategyName,
    given_layers,
    imports_are_done,
    settings_of_options,
)

app = typer.Typer(
    name="coordinator",
    help="A federation over real sites, from the coordinator's side.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.command(epilog="Example: fedmaml coordinator status fed --serve")(watching.status)

Folder = Annotated[Path, typer.Argument(help="Folder of the coordinator.", metavar="DIR")]


@app.command(epilog="Example: fedmaml coordinator init fed --address fl.example.org:443 --site a")
def init(
    folder: Folder,
    address: Annotated[
        str, typer.Option(help="host:port where the sites will find the coordinator.")
    ],
    site: Annotated[
        list[str], typer.Option("--site", help="Name of a site; repeatable, in a fixed order.")
    ],
    listen: Annotated[
        str, typer.Option(help="host:port on which the SuperLink listens, behind nginx.")
    ] = "127.0.0.1:9443",
    also: Annotated[
        list[str] | None,
        typer.Option(help="Further name or IP address of the server; repeatable."),
    ] = None,
) -> None:
    """Make the coordinator's folder: its certificate authority and its server's certificate."""
    from fedmaml.provisioning.certificates import certificate_fingerprint
    from fedmaml.provisioning.coordinator_file import Coordinator, make_coordinator

    made = Coordinator(address=address, listen=listen, sites=tuple(site))
    make_coordinator(folder, made, also or ())
    print(f"{folder} is made; keep {folder / 'ca.key'} to yourself. Send every site:")
    print(f"    {folder / 'ca.crt'}, fingerprint {certificate_fingerprint(folder / 'ca.crt')}")
    print(f"    the address {address}, and that there are {len(made.sites)} sites")
    for number, name in enumerate(made.sites):
        print(f"    {name}: --name {name} --number {number}")
    print(f"Then, with the public key of each: fedmaml site approve {folder} KEY.pub --name NAME")


@app.command(epilog="Example: fedmaml coordinator renew fed")
def renew(
    folder: Folder,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Further name or IP address of the server; repeatable."),
    ] = None,
) -> None:
    """Replace the server's certificate; sites notice nothing, as the authority stays."""
    from fedmaml.provisioning.certificates import SERVER_DAYS
    from fedmaml.provisioning.coordinator_file import renew as renewed

    names = renewed(folder, also or ())
    print(f"{folder / 'server.crt'} is valid for {SERVER_DAYS} days, for {', '.join(names)}")
    print("Restart the coordinator, and reload nginx (nginx -s reload).")


@app.command(epilog="Example: fedmaml coordinator run fed hospitals --strategy maml --out runs/1")
def run(
    folder: Folder,
    scenario: ScenarioName = None,
    strategy: StrategyName = None,
    rounds: Rounds = None,
    seed: Seed = None,
    clients: Clients = None,
    settings: Settings = None,
    config: ConfigFile = None,
    out: Annotated[
        Path, typer.Option(help="Run directory; one that was cut short is continued.", **OUT)
    ] = Path("runs/federation"),
    wait_for: Annotated[
        int | None,
        typer.Option(help="Sites that must be connected before round 1. (default: all)", min=1),
    ] = None,
    patience: Annotated[float, typer.Option(help="Seconds to wait for them.", min=1)] = 3600.0,
    as_json: Json = False,
) -> None:
    """Run a scenario over the sites, to its end; the same command goes on with a cut-short run."""
    from fedmaml.config import resolve
    from fedmaml.provisioning.coordinating import Federation, coordinate
    from fedmaml.provisioning.coordinator_file import read_coordinator

    coordinator = read_coordinator(folder)
    given = settings_of_options(
        settings, scenario=scenario, strategy=strategy, rounds=rounds, seed=seed, clients=clients
    )
    own = {"backend": "flower-deployment", "nodes": wait_for or len(coordinator.sites)}
    resolved = resolve(*given_layers(settings, config), given, own, with_data=False)
    imports_are_done()
    summary = coordinate(resolved, Federation(folder, coordinator, out, patience, say))
    if as_json:
        print(json.dumps(summary))
    else:
        from fedmaml.tables.runs import run_table

        run_table([summary])


@app.command(epilog="Example: fedmaml coordinator files fed --out fed/files")
def files(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Folder that gets the files.", **OUT)],
    largest_object: Annotated[
        int, typer.Option(help="Megabytes that a site may send at once.", min=6)
    ] = 16,
) -> None:
    """Write nginx configuration, systemd unit and container file of the coordinator."""
    from fedmaml.provisioning.generated import coordinator_files

    for path in coordinator_files(folder, out, largest_object):
        print(path)


@app.command(epilog="Example: fedmaml coordinator verify runs/1")
def verify(
    run: Annotated[Path, typer.Argument(help="Run directory.", metavar="RUN")],
    as_json: Json = False,
) -> None:
    """Check that the files of a run are as the run wrote them."""
    from fedmaml.runs.directory import RunDirectory
    from fedmaml.runs.verifying import verify as verified

    found = verified(RunDirectory(run))
    print(json.dumps({str(run): found}) if as_json else f"{run}: {found}")


def say(line: str) -> None:
    """Tell the operator; journald adds the time."""
    print(line, file=sys.stderr, flush=True)
