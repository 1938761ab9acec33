"""Commands about a site: ``fedmaml site init|approve|revoke|doctor|run|files``."""

import json
import threading
from pathlib import Path
from typing import Annotated

import typer

from fedmaml.cli.coordinator import say
from fedmaml.cli.options import OUT, Json

app = typer.Typer(
    name="site",
    help="A real site of a federation: make it, approve it, look after it, run it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

File = Annotated[Path, typer.Argument(help="The site's own file, site.toml, or its folder.")]
AtCoordinator = Annotated[Path, typer.Argument(help="Folder of the coordinator.", metavar="DIR")]
FILE = "site.toml"
_MARKS = {True: "ok", False: "WRONG", None: "-"}


@app.command(
    epilog="Example: fedmaml site init ward --name a --coordinator fl.example.org:443 --ca ca.crt"
)
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the site; is made.", metavar="DIR")],
    name: Annotated[str, typer.Option(help="Name that the coordinator gave the site.")],
    coordinator: Annotated[str, typer.Option(help="host:port of the coordinator.")],
    ca: Annotated[
        Path, typer.Option(help="Certificate of the coordinator's authority, ca.crt.", exists=True)
    ],
    number: Annotated[int, typer.Option(help="Number that the coordinator gave the site.")] = 0,
    sites: Annotated[int, typer.Option(help="Number of all sites.")] = 1,
    data: Annotated[
        str,
        typer.Option(help="CSV or Parquet file, folder of data sets, or package.module:function."),
    ] = "",
    target: Annotated[str, typer.Option(help="Column to predict, of a file.")] = "",
) -> None:
    """Make a site: its node key, which never leaves, and its file, site.toml."""
    from fedmaml.provisioning.certificates import certificate_fingerprint
    from fedmaml.provisioning.keys import public_path
    from fedmaml.provisioning.site_folder import Invitation, make_site

    invited = Invitation(name, number, sites, coordinator)
    found = make_site(folder, invited, ca, data, target)
    key = folder / "node.key"
    print(f"{folder / FILE} is written; change it as you need. The key stays in {key}.")
    print(f"fingerprint of the key:  {found}")
    print(f"fingerprint of ca.crt:   {certificate_fingerprint(folder / 'ca.crt')}")
    print(f"Send {public_path(key)} to the coordinator, and compare both by telephone. Then:")
    print(f"    fedmaml site doctor {folder}")
    print(f"    fedmaml site run {folder}")


@app.command(epilog="Example: fedmaml site approve fed node.key.pub --name cleveland")
def approve(
    folder: AtCoordinator,
    key: Annotated[Path, typer.Argument(help="Public key that the site sent.", exists=True)],
    name: Annotated[str, typer.Option(help="Of the site.")],
    fingerprint: Annotated[
        str, typer.Option(help="What the site's administrator said; is compared.")
    ] = "",
) -> None:
    """At the coordinator: let the owner of a key take part as a site."""
    from fedmaml.provisioning.coordinator_file import read_coordinator
    from fedmaml.provisioning.roster import approve as approved

    found = approved(folder, name, key.read_text(errors="replace"), fingerprint)
    number = read_coordinator(folder).sites.index(name)
    print(f"site {name} (number {number}) may take part with the key {found}")
    if not fingerprint:
        print("Compare this fingerprint with the site's administrator by telephone.")


@app.command(epilog="Example: fedmaml site revoke fed cleveland")
def revoke(
    folder: AtCoordinator, name: Annotated[str, typer.Argument(help="Of the site.")]
) -> None:
    """At the coordinator: let a site take part no more; its key is never taken again."""
    from fedmaml.provisioning.roster import revoke as revoked

    print(f"site {name} is revoked, and its key {revoked(folder, name)} with it")


@app.command(epilog="Example: fedmaml site doctor ward")
def doctor(file: File, as_json: Json = False) -> None:
    """Look at everything that can keep a site from taking part; ends with 1 if something does."""
    from fedmaml.provisioning.doctor import examine

    found = examine(file_of(file))
    if as_json:
        print(json.dumps([finding.to_json() for finding in found], indent=2))
    else:
        for finding in found:
            print(f"{_MARKS[finding.passed]:5} {finding.check}: {finding.what}")
            if finding.fix:
                print(f"      fix: {finding.fix}")
    if any(finding.passed is False for finding in found):
        raise typer.Exit(1)


@app.command(epilog="Example: fedmaml site run ward")
def run(file: File) -> None:
    """Run a site: its worker and its SuperNode, which are started again when they end."""
    from fedmaml.provisioning.site_run import run_site

    stop = threading.Event()
    try:
        run_site(file_of(file), say, stop)
    finally:
        stop.set()


@app.command(epilog="Example: fedmaml site files ward --out ward/files")
def files(
    file: File, out: Annotated[Path, typer.Option(help="Folder that gets the files.", **OUT)]
) -> None:
    """Write systemd unit and container file of a site."""
    from fedmaml.provisioning.generated import site_files

    for path in site_files(file_of(file), out):
        print(path)


def file_of(path: Path) -> Path:
    """Return the site's own file, of a folder or of itself."""
    return path / FILE if path.is_dir() else path
