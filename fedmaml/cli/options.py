"""What several commands ask for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedmaml.config import RunConfig

Json = Annotated[bool, typer.Option("--json", help="One JSON value on standard output, no table.")]

BACKENDS = {
    "in-process": "all clients in this process, vectorised (default)",
    "flower-simulation": "Flower's simulation engine on Ray; needs the extra ray",
    "flower-deployment": "a SuperLink and SuperNodes as processes on this machine",
}

ScenarioName = Annotated[
    str | None, typer.Argument(help="Which problem; see `fedmaml list`.", show_default=False)
]
StrategyName = Annotated[str | None, typer.Option(help="Which algorithm. (default: maml)")]
Rounds = Annotated[int | None, typer.Option(help="Rounds of training.")]
Seed = Annotated[int | None, typer.Option(help="Determines everything random.")]
BackendName = Annotated[str | None, typer.Option(help=", ".join(BACKENDS))]
Nodes = Annotated[int | None, typer.Option(help="Flower nodes that share the clients.")]
Clients = Annotated[int | None, typer.Option(help="Clients per round; 0: all.")]
EngineName = Annotated[
    str | None,
    typer.Option(help="What computes the updates; see `fedmaml list engines`. (default: auto)"),
]
ClientBatch = Annotated[int | None, typer.Option(help="Clients per computation; 1: one by one.")]
WorkerCount = Annotated[
    int | None, typer.Option(help="Processes that share the clients of a node, one per core.")
]
Device = Annotated[str | None, typer.Option(help="cpu (default) or cuda.")]
DataDir = Annotated[str | None, typer.Option(help="Folder that holds one folder per data set.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. inner.lr=0.01; repeatable.")
]
ConfigFile = Annotated[Path | None, typer.Option(help="TOML file with settings.")]


def resolved_from(
    given: Mapping[str, Any], settings: Sequence[str] | None, path: Path | None
) -> "RunConfig":
    """Return the configuration that a command line describes: file, then --set, then options."""
    from fedmaml.config import load_toml, parse_assignment, resolve

    options = {key: value for key, value in given.items() if value is not None}
    if options.get("data_dir"):
        options["data_dir"] = str(Path(options["data_dir"]).absolute())
    layers: list[dict[str, Any]] = [load_toml(path)] if path else []
    layers += [parse_assignment(text) for text in settings or []]
    return resolve(*layers, options)
