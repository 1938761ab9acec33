"""Commands about catalogues and finished runs: list, new, show, clock and export."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from fedmaml.cli.options import OUT, Json, imports_are_done


def new(
    kind: Annotated[str, typer.Argument(help="scenario, strategy or app")],
    name: Annotated[str, typer.Argument(help="Of the file, e.g. wards.")],
) -> None:
    """Write a scenario, a strategy or a Flower app to start from, and a test, into this folder."""
    from fedmaml.templates import write

    file, test = write(kind, name, Path())
    if kind == "app":
        print(f"{test.parent} is written; {test.parent / 'README.md'} says how to run it. Then:")
        print(f"    change {file}")
        print(f"    fedmaml check {file}")
        return
    what = f"{file}" if kind == "scenario" else f"sinusoid --strategy {file}"
    print(f"{file} and {test} are written. Change them, then:")
    print(f"    fedmaml check {what}")
    print(f"    fedmaml run {what}")


def list_everything(
    what: Annotated[
        str, typer.Argument(help="scenarios, strategies, backends, engines, profiles or all")
    ] = "all",
    as_json: Json = False,
) -> None:
    """List scenarios, strategies, backends, engines and profiles, or all of them."""
    from fedmaml.clock.profiles import profiles
    from fedmaml.config.declared import declared_by_scenario, declared_by_strategy
    from fedmaml.core.engines import ABOUT as ENGINES
    from fedmaml.core.errors import ConfigurationError
    from fedmaml.simulations.backends import BACKENDS
    from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
    from fedmaml.strategies import CATALOGUE as STRATEGIES

    everything = {
        "scenarios": {name: declared_by_scenario(name).about for name in SCENARIOS},
        "strategies": {name: declared_by_strategy(name).about for name in STRATEGIES},
        "backends": {name: backend.about for name, backend in BACKENDS.items()},
        "engines": {"auto": "the first of these that is supported and not slow (default)"}
        | ENGINES,
        "profiles": {name: profile.about for name, profile in profiles().items()},
    }
    if what not in (*everything, "all"):
        raise ConfigurationError(f"cannot list {what!r}; known: {', '.join(everything)}, all")
    chosen = everything if what == "all" else {what: everything[what]}
    if as_json:
        print(json.dumps(chosen if what == "all" else chosen[what], indent=2))
        return
    from fedmaml.tables.lists import list_table

    family = {name: declared_by_strategy(name).family.partition(":")[2] for name in STRATEGIES}
    list_table(chosen, {"strategies": family})


def show(
    directories: Annotated[list[Path], typer.Argument(help="Run directories.")],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Check that the files are as the runs wrote them; no table."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show finished runs: the table of one run directory or several."""
    from fedmaml.runs.completeness import complete_summary
    from fedmaml.runs.directory import RunDirectory

    if verify:
        from fedmaml.runs.verifying import verify as verified

        found = {str(path): verified(RunDirectory(path)) for path in directories}
        print(json.dumps(found, indent=2) if as_json else _lines(found))
        return
    summaries = [complete_summary(RunDirectory(path)) for path in directories]
    if as_json:
        print(json.dumps(summaries[0] if len(summaries) == 1 else summaries, indent=2))
    else:
        from fedmaml.tables.runs import run_table

        run_table(summaries)


def clock(
    directories: Annotated[list[Path], typer.Argument(help="Run directories.")],
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Link and device: a name (see `fedmaml list profiles`) or a .toml file; "
            "repeatable. (default: all that have a name)"
        ),
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Report when validation clients reach it, e.g. 0.8.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Determines which clients are slow.")] = 0,
    as_json: Json = False,
) -> None:
    """Simulate how long finished runs would take on other links and devices.

    Times are simulated from the bytes and operations that the runs measured.
    With --target, the runs must have evaluated validation clients:
    `fedmaml run ... --set evaluation.every=5`.
    """
    from fedmaml.clock.profiles import load_profile, profiles
    from fedmaml.clock.rows import clock_all
    from fedmaml.core.errors import ConfigurationError
    from fedmaml.runs.directory import RunDirectory

    if target is not None and not math.isfinite(target):
        raise ConfigurationError(f"--target {target}: give a number that can be reached, e.g. 0.8")
    chosen = [load_profile(name) for name in profile or profiles()]
    rows = clock_all([RunDirectory(path) for path in directories], chosen, target, seed)
    if as_json:
        print(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        from fedmaml.tables.clocks import clock_table

        clock_table(rows)


def export(
    directories: Annotated[list[Path], typer.Argument(help="Run directories.")],
    to: Annotated[str, typer.Option(help="tensorboard or mlflow; each is an extra.")],
    out: Annotated[
        Path, typer.Option(help="TensorBoard: folder that gets one folder for each run.", **OUT)
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
    if to == "tensorboard" and (file := next(filter(Path.is_file, (out, *out.parents)), None)):
        raise ConfigurationError(f"--out {out}: {file} is a file; give a folder, or a new name")
    imports_are_done()
    for path, name in zip(directories, exporting.names_of(directories), strict=True):
        run = exporting.followed(path) if follow else exporting.recorded(path)
        if to == "mlflow":
            count = exporting.to_mlflow(run, name, uri=uri, experiment=experiment, force=force)
        else:
            count = exporting.to_tensorboard(run, out / name, force=force)
        print(f"{name}: {count} points, run {run.outcome()}", file=sys.stderr)
    if to == "tensorboard":
        print(f"tensorboard --logdir {out}", file=sys.stderr)


def _lines(found: Mapping[str, str]) -> str:
    return "\n".join(f"{name}: {sentence}" for name, sentence in found.items())
