"""The command line: ``fedmaml list | run | compare | report | check-gradients | show``.

Help must come at once, so whatever imports torch or Flower is imported inside the commands.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

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
        str, typer.Argument(help="scenarios, strategies, backends, engines or all")
    ] = "all",
    as_json: Json = False,
) -> None:
    """List scenarios, strategies, backends and engines, or all of them."""
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
    scenario: Annotated[
        str | None, typer.Argument(help="Which problem; see `fedmaml list`.", show_default=False)
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="Which algorithm. (default: maml)")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of training.")] = None,
    seed: Annotated[int | None, typer.Option(help="Determines everything random.")] = None,
    backend: Annotated[str | None, typer.Option(help=", ".join(BACKENDS))] = None,
    nodes: Annotated[int | None, typer.Option(help="Flower nodes that share the clients.")] = None,
    clients: Annotated[int | None, typer.Option(help="Clients per round; 0: all.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="What computes the updates; see `fedmaml list engines`. (default: auto)"),
    ] = None,
    client_batch: Annotated[
        int | None, typer.Option(help="Clients per computation; 1: one by one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that share the clients of a node, one per core.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu (default) or cuda.")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder that holds one folder per data set.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. inner.lr=0.01; repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory. (default: a new one below runs)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the run in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Run a scenario (see `fedmaml list`) and judge it on unseen clients."""
    from fedmaml.config import load_toml, parse_assignment, resolve

    given = {
        "scenario": scenario, "strategy": strategy, "rounds": rounds, "seed": seed,
        "backend": backend, "nodes": nodes, "clients": clients, "engine": engine,
        "client_batch": client_batch, "workers": workers,
        "device": device,
        "data_dir": str(Path(data_dir).absolute()) if data_dir else None,
    }  # fmt: skip
    layers: list[dict[str, Any]] = [load_toml(config)] if config else []
    layers += [parse_assignment(text) for text in settings or []]
    layers.append({key: value for key, value in given.items() if value is not None})
    resolved = resolve(*layers)

    from fedmaml.running import execute
    from fedmaml.tables import run_table

    summary = execute(resolved, out, force=force, progress=not as_json)
    if as_json:
        print(json.dumps(summary))
    else:
        run_table([summary])


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

    from fedmaml import comparing
    from fedmaml.comparison_tables import as_table, print_comparison, write_files

    names = [name.strip() for name in strategies.split(",") if name.strip()]
    planned = comparing.plan(scenario, names, seeds, layers, rounds)
    folder = out or Path("runs") / f"compare-{scenario}"
    comparing.run_all(planned, folder, force=force, progress=not as_json)
    comparison = comparing.compare(planned, folder)
    paths = write_files(comparison, folder)
    page = _report_of(comparing.directories(planned, folder), folder / "report.html", as_json)
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


def _report_of(directories: list[Path], page: Path, as_json: bool) -> str:
    """Write the report of a comparison, and say where; or why there is none."""
    from fedmaml.report import missing_libraries, write_report

    if missing := missing_libraries():
        return f"No report: {', '.join(missing)} not installed (pip install 'fedmaml[report]')"
    written = write_report(directories, page, force=True, progress=not as_json)
    return f"Report: {written.page}"


def _first_line(module: str) -> str:
    text = sys.modules[module].__doc__ or ""
    return text.splitlines()[0].rstrip(".") if text else ""


def _fail(message: str, code: int) -> None:
    print(f"fedmaml: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
