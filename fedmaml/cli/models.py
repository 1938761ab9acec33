"""Commands that take a run's model to a site: ``adapt`` and ``predict``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmaml.cli.options import OUT, Json, imports_are_done

if TYPE_CHECKING:
    from fedmaml.simulations.datasets.tables import Table

SiteFile = Annotated[
    Path, typer.Option(help="CSV or Parquet file of one site, with the columns of the run's data.")
]


def adapt(
    run: Annotated[Path, typer.Argument(help="Run directory, of tables (fedmaml run csv).")],
    data: SiteFile,
    out: Annotated[Path, typer.Option(help="Folder of the model; is made.", **OUT)],
    steps: Annotated[
        int | None,
        typer.Option(help="Of adaptation; 0: none, the model as it is. (default: as in the run)"),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            help="Of safetensors, torch, onnx, e.g. safetensors,onnx. (default: all that the "
            "installed packages can write)"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the model in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Adapt a run's model to a site, and write it to a folder to take away.

    Says first what adapting gains, by cross-validation on the site's rows.
    """
    from fedmaml.adapting.estimators import estimator_of
    from fedmaml.adapting.folder import refuse_folder
    from fedmaml.adapting.formats import chosen_formats

    chosen = chosen_formats(None if formats is None else formats.replace(" ", "").split(","))
    refuse_folder(out, force)
    estimator, table = estimator_of(run, steps, tables=True), _site(data)
    imports_are_done()
    gain = estimator.estimate_gain(table, table)
    estimator.fit(table, table).save(out, chosen, force)
    if as_json:
        files = sorted(str(path) for path in out.iterdir())
        print(json.dumps({"gain": gain.to_json(), "files": files}))
        return
    print(gain.advice if steps != 0 else "0 steps: the model as the run left it")
    if gain.after is not None and gain.before is not None:
        unit = "" if gain.unit == "1" else f" {gain.unit}"
        print(f"{gain.metric}: {gain.before:.3g}{unit} before, {gain.after:.3g}{unit} after")
    if steps != 0 and gain.advice.startswith("do not adapt"):
        print("the model as the run left it: the same command with --steps 0")
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def predict(
    model: Annotated[Path, typer.Argument(help="Folder of a model, by fedmaml adapt.")],
    data: SiteFile,
    out: Annotated[
        Path | None, typer.Option(help="File. (default: standard output)", **OUT)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out.")] = False,
    as_json: Json = False,
) -> None:
    """Predict for each row of a file; the target may be missing in it.

    Columns: row (as an editor counts lines), prediction, and a probability for each class.
    """
    from fedmaml.adapting.folder import load
    from fedmaml.adapting.predictions import as_csv, as_records
    from fedmaml.core.errors import ConfigurationError
    from fedmaml.runs.writing import write_all

    if out is not None and out.exists() and not force:
        raise ConfigurationError(f"--out {out} exists: choose another name, or add --force")
    if as_json:
        text = json.dumps(as_records(load(model), _site(data))) + "\n"
    else:
        text = as_csv(load(model), _site(data))
    if out is None:
        sys.stdout.write(text)
    else:
        write_all({out: text.encode()})


def _site(path: Path) -> "Table":
    """Return the rows of one file.

    Raises:
        FedmamlError: If it cannot be read, or names several files.
    """
    from fedmaml.core.errors import ConfigurationError
    from fedmaml.simulations.datasets import tables

    found = tables.load(str(path))
    if len(found) > 1:
        raise ConfigurationError(f"--data {path} names {len(found)} files: give one site's file")
    return found[0]
