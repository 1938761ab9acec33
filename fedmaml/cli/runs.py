"""Commands about one run: ``run``, ``estimate``, ``audit`` and ``check-gradients``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmaml.cli.options import (
    OUT,
    ClientColumn,
    ConfigFile,
    Data,
    DataDir,
    Json,
    ScenarioName,
    Settings,
    StrategyName,
    Target,
    about_a_run,
    configured,
    imports_are_done,
)

if TYPE_CHECKING:
    from fedmaml.config import RunConfig


@about_a_run
def run(
    config: "RunConfig",
    out: Annotated[
        Path | None, typer.Option(help="Run directory. (default: a new one below runs)", **OUT)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the run in --out.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="Run directory: go on with a run that was cut short.", **OUT),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a scenario (see `fedmaml list`) and evaluate it on unseen clients."""
    from fedmaml.core.errors import ConfigurationError
    from fedmaml.running import execute
    from fedmaml.tables.runs import run_table

    if resume is not None and (out is not None or force):
        raise ConfigurationError("--resume goes on in its own folder: leave out --out and --force")
    imports_are_done()
    summary = execute(
        config, resume or out, force=force, resume=resume is not None, progress=not as_json
    )
    if as_json:
        print(json.dumps(summary))
    else:
        run_table([summary])


@about_a_run
def estimate(
    config: "RunConfig",
    timed: Annotated[
        bool,
        typer.Option("--timed/--counted", help="Estimate seconds, too, from a few real rounds."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Estimate the cost of a run before it runs: bytes, operations, memory and seconds.

    Takes the options of `fedmaml run`. It computes a few updates and, for the seconds, a few rounds
    and an evaluation; it writes nothing.
    """
    from fedmaml.estimating import estimate as estimated
    from fedmaml.tables.estimates import estimate_table

    imports_are_done()
    if timed and not as_json:
        print("carrying out a few rounds and an evaluation", file=sys.stderr)
    cost = estimated(config, timed=timed).to_json()
    if as_json:
        print(json.dumps(cost))
    else:
        estimate_table(cost)


def audit(
    scenario: ScenarioName = None,
    strategy: StrategyName = None,
    settings: Settings = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    data: Data = None,
    target: Target = None,
    client: ClientColumn = None,
    clients: Annotated[
        int, typer.Option(min=2, help="Most clients of each split to examine.")
    ] = 1000,
    as_json: Json = False,
) -> None:
    """Look for leakage in a scenario's data, and in how a strategy predicts.

    Ends with exit code 1 if there is a leak or a warning. Every run does the same with a smaller
    sample; see `audit` in its summary.json, and docs/auditing.md.
    """
    resolved = configured(
        scenario, strategy, data_dir=data_dir, data=data, target=target, client=client,
        settings=settings, config=config,
    )  # fmt: skip

    from fedmaml import auditing
    from fedmaml.tables.checks import audit_table

    imports_are_done()
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


@about_a_run
def check(config: "RunConfig", as_json: Json = False) -> None:
    """Check a scenario and a strategy, e.g. of your own, in seconds: `fedmaml check wards.py`.

    Clients, tasks, repeatability, network, gradients and leakage, each with what to change.
    Ends with exit code 1 if something is wrong.
    """
    from fedmaml.checking import check as checked

    results = checked(config)
    if as_json:
        print(json.dumps([result.to_json() for result in results], indent=2))
    else:
        from fedmaml.tables.checks import checked_table

        checked_table(results)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def check_gradients(
    strategy: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the updates that clients send with finite differences, formulas and closed forms."""
    from fedmaml.verification import TOLERANCE, check_all

    imports_are_done()
    results = check_all(strategy)
    if as_json:
        print(json.dumps([result.to_json() for result in results], indent=2))
    else:
        from fedmaml.tables.checks import check_table

        check_table(results, TOLERANCE)
    if any(not result.relative_error <= TOLERANCE for result in results):
        raise typer.Exit(1)
