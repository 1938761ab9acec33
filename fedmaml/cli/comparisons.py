"""Commands about several runs: ``compare``, ``report`` and ``figures``."""

import json
import sys
from pathlib import Path
from typing import Annotated

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
    refuse_unknown_names,
    scenario_names,
    settings_of_options,
)


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
    from fedmaml.api.naming import places, scenario_named, strategy_named

    task = scenario_named(scenario)
    named = [strategy_named(name.strip()) for name in strategies.split(",") if name.strip()]
    names = [one.name for one in named]
    options = settings_of_options(
        [text for text in settings or [] if ":" not in text.partition("=")[0]],
        backend=backend, nodes=nodes, engine=engine, workers=workers, device=device,
        data_dir=data_dir, data=data, target=target, client=client,
    )  # fmt: skip
    layers = [*given_layers(settings, config), options, places(task, named)]
    refuse_unknown_names(task.name, names)

    from fedmaml.api.comparing import compared
    from fedmaml.comparison.names import display
    from fedmaml.comparison.tables import as_table, print_comparison
    from fedmaml.report import missing_libraries

    imports_are_done()
    made = compared(
        task.name, names, seeds, layers, rounds=rounds, equal=equal, tune=tune, out=out,
        force=force, progress=not as_json,
    )  # fmt: skip
    comparison = made.comparison
    if as_json:
        print(json.dumps(as_table(comparison)))
    else:
        print_comparison(comparison, made.files)
        missing = ", ".join(missing_libraries())
        print(
            f"Report: {made.page}" if made.page
            else f"No report: {missing} not installed (pip install 'fedmaml[report]')"
        )  # fmt: skip
    lost = [row.strategy for row in comparison.rows if row.verdict == "diverged"]
    if diverged := list(map(display, lost)):
        line = f"{', '.join(diverged)} diverged; the sentences above name what to lower"
        print(f"fedmaml: {line if not as_json else line.replace(' above', '')}", file=sys.stderr)
        from fedmaml.core.exit_codes import DIVERGED

        raise typer.Exit(DIVERGED)


def figures(
    directories: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders of them.", show_default=False)
    ],
    style: Annotated[
        str, typer.Option(help="paper (8 points, like Times) or page (as in a report).")
    ] = "paper",
    width: Annotated[
        str | None,
        typer.Option(help="Of figures and tables, e.g. 8.3cm. (default: 3.25in; page: 4in)"),
    ] = None,
    format: Annotated[str, typer.Option(help="pdf, svg or png.")] = "pdf",
    out: Annotated[
        Path | None, typer.Option(help="Folder. (default: paper in the first directory)", **OUT)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Write figures for an article, the numbers of each as CSV, and tables for LaTeX.

    Fonts are embedded; tables have caption and label, and fit the width.
    Needs the extra `report` of fedmaml.
    """
    from fedmaml.report import write_figures

    imports_are_done()
    files = write_figures(
        directories, out, style=style, width=width, format=format, force=force,
        progress=not as_json,
    )  # fmt: skip
    if as_json:
        print(json.dumps([str(path) for path in files]))
    else:
        print(f"{files[0].parent}: {', '.join(path.name for path in files)}")


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
