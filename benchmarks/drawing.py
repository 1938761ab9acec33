"""How pictures of the cards become files: SVG whose bytes are the same for the same content."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.atlas.systems import EXPERIMENTS
from fedmaml.report.canvas import PAGE

FIGURES = EXPERIMENTS.parents[1] / "docs" / "figures"


def draw_named(description: str | None, drawn: Mapping[str, Callable[[Path, Path], None]]) -> None:
    """Draw the pictures that the command line names, from finished runs; all if it names none.

    Args:
        description: Of the command.
        drawn: Name -> what writes the picture, given the folder of all runs and the SVG file.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(drawn)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/atlas"), help="folder of all runs")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the pictures")
    arguments = parser.parse_args()
    for name in arguments.names or drawn:
        drawn[name](arguments.runs, arguments.out / f"{name}.svg")


def save(
    path: Path,
    inches: tuple[float, float],
    panels: int | tuple[int, int],
    paint: Callable[..., None],
    **options: Any,
) -> None:
    """Write a drawing.

    Args:
        path: Of the SVG file.
        inches: Width and height.
        panels: How many stand side by side, or rows and columns.
        paint: Draws on the axes, row after row.
        options: Of `Figure.subplots`.
    """
    rows, columns = (1, panels) if isinstance(panels, int) else panels
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(PAGE.settings() | {"svg.hashsalt": "fedmaml", "svg.fonttype": "path"})
        figure = Figure(inches)
        paint(*np.atleast_1d(figure.subplots(rows, columns, **options)).flat)
        figure.savefig(path, metadata={"Date": None}, format="svg", dpi=150)
