"""The command line: ``fedmaml list | run | estimate | compare | audit | show | export | ...``.

Help must come at once, so whatever imports torch or Flower is imported inside the commands.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedmaml.comparison.conclusions import Comparison
    from fedmaml.config import RunConfig

app = typer.Typer(
    help="Federated meta-learning on Flower and PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON value on standard output, no table.")]

_INTERRUPTED = 130

BACKENDS = {
    "in-process": "all clients in this process, vectorised (default)",
    "flower-simulation": "Flower's simulation engine on Ray; needs fedmaml[ray]",
    "flower-deployment": "a SuperLink and SuperNodes as processes on this machine",
}

# What `run` and `estimate` ask for alike.
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


def main() -> None:
    """Run the command line; errors that fedmaml raises on purpose end as one clear line."""
    from fedmaml.core.errors import FedmamlError

    try:
        code = app(standalone_mode=False)  # what typer would exit with; 130 after Ctrl-C
    except FedmamlError as error:
        _fail(f"{type(error).__name__}: {error}", 1)
    except OSError as error:  # a full disk, a folder that went away, a closed pipe
        _fail(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        _fail("interrupted", _INTERRUPTED)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's errors about arguments
        if usage is None:
            raise
        if usage():
            _fail(f"{usage()} (see --help)", 2)
        sys.exit(2)  # no arguments: the help was printed
    if code == _INTERRUPTED:
        _fail("interrupted; what was finished is in the run directory, see --out", code)
    sys.exit(code or 0)


def _print_version(wanted: bool) -> None:
    if wanted:
        from fedmaml import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Federated meta-learning on Flower and PyTorch."""


@app.command("list")
def list_command(
    what: Annotated[
        str, typer.Argument(help="scenarios, strategies, backends, engines, profiles or all")
    ] = "all",
    as_json: Json = False,
) -> None:
    """List scenarios, strategies, backends, engines and profiles, or all of them."""
    from fedmaml import clock
    from fedmaml.client.engines import ENGINES
    from fedmaml.core.errors import ConfigurationError
    from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
    from fedmaml.strategies import CATALOGUE as STRATEGIES

    everything = {
        "scenarios": {name: scenario.about for name, scenario in SCENARIOS.items()},
        "strategies": {name: _first_line(cls.__module__) for name, cls in STRATEGIES.items()},
        "backends": BACKENDS,
        "engines": {"auto": "the first of these that can and that pays (default)"}
        | {name: engine.about for name, engine in ENGINES.items()},
        "profiles": {name: profile.about for name, profile in clock.profiles().items()},
    }
    if what not in (*everything, "all"):
        raise ConfigurationError(f"cannot list {what!r}; known: {', '.join(everything)}, all")
    chosen = everything if what == "all" else {what: everything[what]}
    if as_json:
        print(json.dumps(chosen if what == "all" else chosen[what], indent=2))
        return
    from fedmaml.tables import list_table

    list_table(chosen)


@app.command()
def run(
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
    settings: Settings = None,
    config: ConfigFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory. (default: a new one below runs)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the run in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Run a scenario (see `fedmaml list`) and judge it on unseen clients."""
    resolved = _resolved(
        {
            "scenario": scenario, "strategy": strategy, "rounds": rounds, "seed": seed,
            "backend": backend, "nodes": nodes, "clients": clients, "engine": engine,
            "client_batch": client_batch, "workers": workers, "device": device,
            "data_dir": data_dir,
        },
        settings,
        config,
    )  # fmt: skip

    from fedmaml.running import execute
    from fedmaml.tables import run_table

    summary = execute(resolved, out, force=force, progress=not as_json)
    if as_json:
        print(json.dumps(summary))
    else:
        run_table([summary])


@app.command()
def estimate(
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
    settings: Settings = None,
    config: ConfigFile = None,
    timed: Annotated[
        bool,
        typer.Option("--timed/--counted", help="Tell seconds, too, by carrying out a few rounds."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Tell what a run will cost, before it runs: bytes, operations, memory and seconds.

    Takes what `fedmaml run` takes. A few updates are computed and, for the seconds, a few rounds
    and an evaluation carried out; nothing is written.
    """
    resolved = _resolved(
        {
            "scenario": scenario, "strategy": strategy, "rounds": rounds, "seed": seed,
            "backend": backend, "nodes": nodes, "clients": clients, "engine": engine,
            "client_batch": client_batch, "workers": workers, "device": device,
            "data_dir": data_dir,
        },
        settings,
        config,
    )  # fmt: skip

    from fedmaml.estimating import estimate as estimated
    from fedmaml.tables import estimate_table

    if timed and not as_json:
        print("carrying out a few rounds and an evaluation", file=sys.stderr)
    told = estimated(resolved, timed=timed).to_json()
    if as_json:
        print(json.dumps(told))
    else:
        estimate_table(told)


@app.command()
def compare(
    scenario: Annotated[
        str, typer.Argument(help="Which problem; see `fedmaml list`.", show_default=False)
    ],
    strategies: Annotated[
        str, typer.Option(help="Which algorithms, e.g. fomaml,maml; local and fedavg are added.")
    ],
    seeds: Annotated[int, typer.Option(help="How many: 0, 1, ...")] = 5,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of training. (default: each one's recipe)")
    ] = None,
    equal: Annotated[
        str | None,
        typer.Option(
            help="What everybody gets equally much of: rounds, or as many rounds as fit into the "
            "bytes or flops that fedavg takes. (default: rounds if they are given, else recipes)"
        ),
    ] = None,
    tune: Annotated[
        int | None,
        typer.Option(
            help="Trials for every strategy to tune its settings on validation clients; needs "
            "fedmaml[tune]. (default: not tuned)"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for all strategies that know the key; repeatable."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with such settings.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder. (default: runs/compare-SCENARIO)")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run again what --out holds with other settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare strategies with fine-tuned FedAvg on the same clients and seeds.

    Complete runs in --out are reused, so the same command goes on after Ctrl-C,
    and more strategies or seeds cost only themselves.
    """
    from fedmaml.config import load_toml, parse_assignment

    layers = [load_toml(config)] if config else []
    layers += [parse_assignment(text) for text in settings or []]

    from fedmaml.comparison import comparing
    from fedmaml.comparison.tables import as_table, print_comparison, write_files

    names = [name.strip() for name in strategies.split(",") if name.strip()]
    planned = comparing.plan(scenario, names, seeds, layers, rounds, equal)
    folder = out or Path("runs") / f"compare-{scenario}"
    found = None
    if tune is not None:
        from fedmaml.comparison.tuning import tune as search

        comparing.refuse_single_run(folder)
        first = {name: configs[0] for name, configs in planned.runs.items()}
        found = search(first, planned.terms, tune, folder, force=force, progress=not as_json)
        planned = comparing.tuned(planned, found)
    comparing.run_all(planned, folder, force=force, progress=not as_json)
    comparison = comparing.compare(planned, folder, found)
    words = comparing.command(scenario, names, seeds, layers, rounds, equal, tune)
    comparison = replace(comparison, command=words)
    paths = write_files(comparison, folder)
    runs = comparing.directories(planned, folder)
    page = _report_of(runs, comparison, folder / "report.html", as_json)
    if as_json:
        print(json.dumps(as_table(comparison)))
    else:
        print_comparison(comparison, paths)
        print(page)


@app.command()
def report(
    directories: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders of them.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page. (default: report.html in the first directory)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a report.")] = False,
    as_json: Json = False,
) -> None:
    """Make one HTML page of finished runs: the answer, figures, tables, how to repeat it.

    The figures are also written as SVG and PNG, to a folder beside the page.
    Needs the extra fedmaml[report].
    """
    from fedmaml.report import write_report

    written = write_report(directories, out, force=force, progress=not as_json)
    if as_json:
        print(json.dumps(written.to_json()))
    else:
        print(written.headline)
        print(f"{written.page}, and {len(written.figures)} figures in {written.folder}")


@app.command()
def audit(
    scenario: ScenarioName = None,
    strategy: StrategyName = None,
    settings: Settings = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    clients: Annotated[
        int, typer.Option(min=2, help="Look at most at so many clients of each split.")
    ] = 1000,
    as_json: Json = False,
) -> None:
    """Look for leakage in a scenario's data, and in how a strategy predicts.

    Ends with exit code 1 if more is found than notes. Every run does the same with a smaller
    sample; see `audit` in its summary.json, and docs/auditing.md.
    """
    given = {"scenario": scenario, "strategy": strategy, "data_dir": data_dir}
    resolved = _resolved(given, settings, config)

    from fedmaml import auditing
    from fedmaml.tables import audit_table

    found = auditing.audit(
        resolved.make_scenario(),
        resolved.make_strategy(),
        resolved.make_problem(),
        resolved.seed,
        auditing.THOROUGH._replace(clients=clients),
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        audit_table(found)
    if found.alarming:
        raise typer.Exit(1)


@app.command("check-gradients")
def check_gradients(
    strategy: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    as_json: Json = False,
) -> None:
    """Hold what clients send against finite differences, defining formulas and closed forms."""
    from fedmaml.verification import TOLERANCE, check_all

    results = check_all(strategy)
    if as_json:
        print(json.dumps([result.to_json() for result in results], indent=2))
    else:
        from fedmaml.tables import check_table

        check_table(results, TOLERANCE)
    if any(not result.relative_error <= TOLERANCE for result in results):
        raise typer.Exit(1)


@app.command()
def show(
    directories: Annotated[list[Path], typer.Argument(help="Run directories.")],
    as_json: Json = False,
) -> None:
    """Show finished runs: the table of one run directory or several."""
    from fedmaml.core.errors import RunDirectoryError
    from fedmaml.server.run_directory import RunDirectory

    summaries = []
    for path in directories:
        directory = RunDirectory(path)
        table, summary = directory.config_table(), directory.summary()
        if summary is None:
            reason = directory.failure()
            raise RunDirectoryError(
                f"{path} is not complete: {len(directory.rounds())} of {table.get('rounds')} "
                "rounds are finished and there is no summary.json"
                + (f"; it failed: {reason}" if reason else "; it was interrupted, or still runs")
            )
        summaries.append(summary)
    if as_json:
        print(json.dumps(summaries[0] if len(summaries) == 1 else summaries, indent=2))
    else:
        from fedmaml.tables import run_table

        run_table(summaries)


@app.command()
def export(
    directories: Annotated[list[Path], typer.Argument(help="Run directories.")],
    to: Annotated[str, typer.Option(help="tensorboard or mlflow; each is an extra.")],
    out: Annotated[
        Path, typer.Option(help="TensorBoard: folder that gets one folder for each run.")
    ] = Path("runs/tensorboard"),
    uri: Annotated[
        str | None,
        typer.Option(help="MLflow: tracking server or database. (default: MLflow's own choice)"),
    ] = None,
    experiment: Annotated[
        str, typer.Option(help="MLflow: name of the experiment. (default: after the scenario)")
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run ends, or Ctrl-C.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what was exported before.")
    ] = False,
) -> None:
    """Show runs in TensorBoard or MLflow: finished ones, or with --follow one that goes on."""
    from fedmaml import exporting
    from fedmaml.core.errors import ConfigurationError

    if to not in exporting.SINKS:
        raise ConfigurationError(f"--to {to!r}: known: {', '.join(exporting.SINKS)}")
    if follow and len(directories) > 1:
        raise ConfigurationError(
            f"--follow with {len(directories)} run directories: follow one, or start the command "
            "once for each"
        )
    for path, name in zip(directories, exporting.names_of(directories), strict=True):
        run = exporting.followed(path) if follow else exporting.recorded(path)
        if to == "mlflow":
            count = exporting.to_mlflow(run, name, uri=uri, experiment=experiment, force=force)
        else:
            count = exporting.to_tensorboard(run, out / name, force=force)
        print(f"{name}: {count} points, run {run.outcome()}", file=sys.stderr)
    if to == "tensorboard":
        print(f"tensorboard --logdir {out}", file=sys.stderr)


@app.command("clock")
def clock_command(
    directories: Annotated[list[Path], typer.Argument(help="Run directories.")],
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Link and device: a name (see `fedmaml list profiles`) or a .toml file; "
            "repeatable. (default: all that have a name)"
        ),
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Say when validation clients reach it, e.g. 0.8.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Determines which clients are slow.")] = 0,
    as_json: Json = False,
) -> None:
    """Simulate how long finished runs would take on other links and devices.

    Times are simulated from the bytes and operations that the runs measured.
    With --target, the runs must have judged validation clients:
    `fedmaml run ... --set evaluation.every=5`.
    """
    from fedmaml import clock
    from fedmaml.server.run_directory import RunDirectory

    chosen = [clock.load_profile(name) for name in profile or clock.profiles()]
    rows = clock.clock_all([RunDirectory(path) for path in directories], chosen, target, seed)
    if as_json:
        print(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        from fedmaml.tables import clock_table

        clock_table(rows)


def _resolved(
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


def _report_of(directories: list[Path], comparison: "Comparison", page: Path, as_json: bool) -> str:
    """Write the report of a comparison, and say where; or why there is none."""
    from fedmaml.report import missing_libraries, write_report

    if missing := missing_libraries():
        return f"No report: {', '.join(missing)} not installed (pip install 'fedmaml[report]')"
    written = write_report(directories, page, comparison, force=True, progress=not as_json)
    return f"Report: {written.page}"


def _first_line(module: str) -> str:
    text = sys.modules[module].__doc__ or ""
    return text.splitlines()[0].rstrip(".") if text else ""


def _fail(message: str, code: int) -> None:
    print(f"fedmaml: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
