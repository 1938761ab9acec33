"""Commands about several runs: ``compare`` and ``report``."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmaml.cli.options import (
    OUT,
    BackendName,
    ClientColumn,
    Data,
    DataDir,
    Device,
    EngineName,
    Json,
    Nodes,
    Target,
    WorkerCount,
    given_layers,
    imports_are_done,
    own_names,
    refuse_unknown_names,
    scenario_names,
    settings_of_options,
)

if TYPE_CHECKING:
    from fedmaml.comparison.conclusions import Comparison

DIVERGED = 3
"""Exit code of a comparison in which a strategy diverged."""


def compare(
    scenario: Annotated[
        str,
        typer.Argument(
            help="Which problem; see `fedmaml list`.",
            show_default=False,
            autocompletion=scenario_names,
        ),
    ],
    strategies: Annotated[
        str, typer.Option(help="Which algorithms, e.g. fomaml,maml; the baselines are added.")
    ],
    seeds: Annotated[int, typer.Option(help="How many: 0, 1, ...")] = 5,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of training. (default: each one's recipe)")
    ] = None,
    equal: Annotated[
        str | None,
        typer.Option(
            help="One budget for every strategy: rounds, or the bytes, flops or units of a "
            "scenario's counter (by its name) that fedavg needs. "
            "(default: rounds if --rounds is given, else recipes)"
        ),
    ] = None,
    tune: Annotated[
        int | None,
        typer.Option(
            help="Trials for every strategy to tune its settings on validation clients; needs "
            "the extra tune. (default: not tuned)"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value for all strategies that know the key, or STRATEGY:key=value for one; "
            "repeatable.",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with such settings.")] = None,
    backend: BackendName = None,
    nodes: Nodes = None,
    engine: EngineName = None,
    workers: WorkerCount = None,
    device: Device = None,
    data_dir: DataDir = None,
    data: Data = None,
    target: Target = None,
    client: ClientColumn = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder. (default: runs/compare-SCENARIO)", **OUT)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run again what --out holds with other settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare strategies with fine-tuned FedAvg on the same clients and seeds.

    Complete runs in --out are reused, so the same command continues after Ctrl-C,
    and further strategies or seeds add only their own runs.
    Ends with exit code 3 if a strategy diverged; the others are compared anyway.
    """
    names = [name.strip() for name in strategies.split(",") if name.strip()]
    scenario, names, places = own_names(scenario, names)
    options = settings_of_options(
        [text for text in settings or [] if ":" not in text.partition("=")[0]],
        backend=backend, nodes=nodes, engine=engine, workers=workers, device=device,
        data_dir=data_dir, data=data, target=target, client=client,
    )  # fmt: skip
    layers = [*given_layers(settings, config), options, places]
    refuse_unknown_names(scenario, names)

    from fedmaml.comparison import comparing, planning, tuning
    from fedmaml.comparison.tables import as_table, print_comparison, write_files
    from fedmaml.runs.directory import RunDirectory

    imports_are_done()
    planned = planning.plan(scenario, names, seeds, layers, rounds, equal)
    first = {name: configs[0] for name, configs in planned.runs.items()}
    if tune is not None:
        tuning.check(first, tune)
    folder = out or Path("runs") / f"compare-{scenario}"
    with RunDirectory(folder).entered():
        if not force:
            comparing.refuse_other_contents(folder, tuned=tune is not None)
        found = None
        if tune is not None:
            progress = not as_json
            found = tuning.tune(first, planned.budget, tune, folder, force=force, progress=progress)
            planned = planning.tuned(planned, found)
        comparing.run_all(planned, folder, force=force, progress=not as_json)
        comparison = comparing.compare(planned, folder, found)
        words = planning.command(scenario, names, seeds, layers, rounds, equal, tune)
        comparison = replace(comparison, command=words)
        paths = write_files(comparison, folder)
        runs = comparing.directories(planned, folder)
        page = _report_of(runs, comparison, folder / "report.html", as_json)
    if as_json:
        print(json.dumps(as_table(comparison)))
    else:
        print_comparison(comparison, paths)
        print(page)
    if diverged := [row.strategy for row in comparison.rows if row.verdict == "diverged"]:
        line = f"{', '.join(diverged)} diverged; the sentences above name what to lower"
        print(f"fedmaml: {line if not as_json else line.replace(' above', '')}", file=sys.stderr)
        raise typer.Exit(DIVERGED)


def report(
    directories: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders of them.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The page. (default: report.html in the first directory)", **OUT),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a report.")] = False,
    as_json: Json = False,
) -> None:
    """Make one HTML page of finished runs: the answer, figures, tables, how to repeat it.

    The figures are also written as SVG and PNG, to a folder beside the page.
    Needs the extra `report` of fedmaml.
    """
    from fedmaml.report import write_report

    imports_are_done()
    written = write_report(directories, out, force=force, progress=not as_json)
    if as_json:
        print(json.dumps(written.to_json()))
    else:
        print(written.headline)
        print(f"{written.page}, and {len(written.figures)} figures in {written.folder}")


def _report_of(directories: list[Path], comparison: "Comparison", page: Path, as_json: bool) -> str:
    """Write the report of a comparison; return where it is, or why there is none."""
    from fedmaml.report import missing_libraries, write_report

    if missing := missing_libraries():
        return f"No report: {', '.join(missing)} not installed (pip install 'fedmaml[report]')"
    written = write_report(directories, page, comparison, force=True, progress=not as_json)
    return f"Report: {written.page}"
