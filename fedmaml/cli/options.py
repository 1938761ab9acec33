"""Options that several commands share."""

import gc
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmaml.core.plugins import absolute, is_own, own_name
from fedmaml.simulations.backends import BACKENDS

if TYPE_CHECKING:
    from fedmaml.config import RunConfig

Json = Annotated[bool, typer.Option("--json", help="One JSON value on standard output, no table.")]


def scenario_names(incomplete: str) -> list[str]:
    """Return what the shell may complete the name of a scenario to."""
    from fedmaml.simulations.scenarios import CATALOGUE

    return [name for name in CATALOGUE if name.startswith(incomplete)]


def strategy_names(incomplete: str) -> list[str]:
    """Return what the shell may complete the name of a strategy to."""
    from fedmaml.strategies import CATALOGUE

    return [name for name in CATALOGUE if name.startswith(incomplete)]


def engine_names(incomplete: str) -> list[str]:
    """Return what the shell may complete the name of an engine to."""
    from fedmaml.core.engines import ABOUT

    return [name for name in ("auto", *ABOUT) if name.startswith(incomplete)]


def backend_names(incomplete: str) -> list[str]:
    """Return what the shell may complete the name of a back end to."""
    return [name for name in BACKENDS if name.startswith(incomplete)]


ScenarioName = Annotated[
    str | None,
    typer.Argument(
        help="Which problem: a name of `fedmaml list`, or a file of yours, wards.py.",
        show_default=False,
        autocompletion=scenario_names,
    ),
]
StrategyName = Annotated[
    str | None,
    typer.Option(
        help="Which algorithm: a name, or a file of yours, mine.py:Mine. (default: maml)",
        autocompletion=strategy_names,
    ),
]
Rounds = Annotated[int | None, typer.Option(help="Rounds of training.")]
Seed = Annotated[int | None, typer.Option(help="Determines everything random.")]
BackendName = Annotated[
    str | None, typer.Option(help=", ".join(BACKENDS), autocompletion=backend_names)
]
Nodes = Annotated[int | None, typer.Option(help="Flower nodes that share the clients.")]
Clients = Annotated[int | None, typer.Option(help="Clients per round; 0: all.")]
EngineName = Annotated[
    str | None,
    typer.Option(
        help="What computes the updates; see `fedmaml list engines`. (default: auto)",
        autocompletion=engine_names,
    ),
]
ClientBatch = Annotated[int | None, typer.Option(help="Clients per computation; 1: one by one.")]
WorkerCount = Annotated[
    int | None, typer.Option(help="Processes that share the clients of a node, one per core.")
]
Device = Annotated[str | None, typer.Option(help="cpu (default) or cuda.")]
DataDir = Annotated[str | None, typer.Option(help="Folder that holds one folder per data set.")]
Data = Annotated[
    str | None,
    typer.Option(help="Scenario csv: your CSV or Parquet files, e.g. 'sites/*.csv'."),
]
Target = Annotated[str | None, typer.Option(help="Scenario csv: the column to predict.")]
ClientColumn = Annotated[
    str | None,
    typer.Option(
        "--client", help="Scenario csv: the column that names clients. (default: a file is one)"
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. inner.lr=0.01; repeatable.")
]
ConfigFile = Annotated[Path | None, typer.Option(help="TOML file with settings.")]


_KEYS = {"data": "task.data", "target": "task.target", "client": "task.client"}
"""Options that are not named as their settings are."""


def given_layers(settings: Sequence[str] | None, path: Path | None) -> list[dict[str, Any]]:
    """Return the settings that a command line gives beside its options: file, then --set."""
    from fedmaml.config import load_toml, parse_assignment

    layers = [load_toml(path)] if path else []
    return layers + [parse_assignment(text) for text in settings or []]


def imports_are_done() -> None:
    """Collect garbage from now on, but not among what was imported; see `cli.process`."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def refuse_unknown_names(scenario: str, strategies: Sequence[str]) -> None:
    """Refuse names that the catalogues lack, before anything slow is imported.

    Raises:
        ConfigurationError: Names what was probably meant.
    """
    from fedmaml.config.keys import known_name
    from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
    from fedmaml.strategies import CATALOGUE as STRATEGIES

    known_name(scenario, SCENARIOS, "scenario")
    for name in strategies:
        known_name(name, STRATEGIES, "strategy")


def configured(
    scenario: ScenarioName = None,
    strategy: StrategyName = None,
    rounds: Rounds = None,
    seed: Seed = None,
    backend: BackendName = None,
    nodes: Nodes = None,
    clients: Clients = None,
    engine: EngineName = None,
    client_batch: ClientBatch = None,
    workers: WorkerCount = None,
    device: Device = None,
    data_dir: DataDir = None,
    data: Data = None,
    target: Target = None,
    client: ClientColumn = None,
    settings: Settings = None,
    config: ConfigFile = None,
    *,
    quiet: bool = True,
) -> "RunConfig":
    """Return the configuration that a command line describes; what it leaves out is None.

    Unless ``quiet``, one line on standard error says at once what will run.
    """
    from fedmaml.config import resolve
    from fedmaml.core.patience import told_if_slow

    given = settings_of_options(
        settings, scenario=scenario, strategy=strategy, rounds=rounds, seed=seed, backend=backend,
        nodes=nodes, clients=clients, engine=engine, client_batch=client_batch, workers=workers,
        device=device, data_dir=data_dir, data=data, target=target, client=client,
    )  # fmt: skip
    with told_if_slow("reading the data", not quiet):
        return resolve(*given_layers(settings, config), given, say=None if quiet else _tell)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def settings_of_options(settings: Sequence[str] | None, **options: Any) -> dict[str, Any]:
    """Return the settings that options stand for; those that are None are left out.

    Args:
        settings: The command's --set, which may not say something else.
        **options: Name -> value, as typed.

    Raises:
        ConfigurationError: If a setting is given twice.
    """
    for kind in ("scenario", "strategy"):
        if options.get(kind) and is_own(options[kind]):
            options[f"{kind}_from"] = absolute(options[kind])
            options[kind] = own_name(options[kind])
    if options.get("data_dir"):
        options["data_dir"] = str(Path(options["data_dir"]).absolute())
    given = {_KEYS.get(name, name): value for name, value in options.items() if value is not None}
    _refuse_twice(given, settings)
    return given


def of_run(folder: Path, options: Mapping[str, Any]) -> "RunConfig":
    """Return the configuration of a run that is to be resumed, which no option may change."""
    from fedmaml.core.errors import ConfigurationError
    from fedmaml.runs.directory import RunDirectory

    if given := [name for name, value in options.items() if value is not None]:
        named = ", ".join(
            "--set" if name == "settings" else "--" + name.replace("_", "-") for name in given
        )
        raise ConfigurationError(
            f"--resume goes on with the configuration of the run in {folder}; leave out {named}"
        )
    return RunDirectory(folder).config()


def _refuse_twice(given: Mapping[str, Any], settings: Sequence[str] | None) -> None:
    """Refuse a --set that says something else than an option or the argument, which win."""
    from fedmaml.core.errors import ConfigurationError

    for layer in given_layers(settings, None):
        for key, value in layer.items():
            if key in given and given[key] != value:
                name = key.removeprefix("task.").replace("_", "-")
                own = name if key == "scenario" else f"--{name}"
                raise ConfigurationError(
                    f"{key} is given twice: {given[key]!r} ({own}) and {value!r} (--set "
                    f"{key}=...); give it once"
                )


def folder_or_page(given: str | Path) -> Path:
    """Return the path that --out names; refuse "", which would be the folder one is in."""
    if not str(given).strip():
        raise typer.BadParameter("it is empty; name a folder, e.g. runs/first")
    return Path(given)


OUT = {"parser": folder_or_page, "metavar": "PATH"}
"""What every option --out has in common."""


def about_a_run(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all options that describe a run, before its own options.

    Args:
        command: Gets the configuration, and its own options by name.
    """
    *of_the_run, _quiet = inspect.signature(configured).parameters.values()
    _, *own = inspect.signature(command).parameters.values()
    parameters = [*of_the_run, *own]

    @wraps(command)
    def described(**given: Any) -> None:
        options = {each.name: given.pop(each.name) for each in of_the_run}
        if (resumed := given.get("resume")) is None:
            config = configured(**options, quiet=given["as_json"])
        else:
            config = of_run(resumed, options)
        command(config, **given)

    # typer reads the signature, and the annotations for what the signature leaves open.
    described.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    described.__annotations__ = {each.name: each.annotation for each in parameters}
    return described
