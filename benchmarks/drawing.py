"""How pictures of the cards become files: SVG whose bytes are the same for the same content."""

import argparse
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.atlas.systems import EXPERIMENTS
from fedmaml.report.canvas import PAGE
from fedmaml.report.pictures import FOLDER

FIGURES = EXPERIMENTS.parents[1] / "docs" / "figures"


@dataclass(frozen=True)
class Picture:
    """A picture of a system of the atlas.

    Attributes:
        caption: What it shows; of no punctuation, since it names a file.
        draw: Writes it, given the folder of all runs and the SVG file.
    """

    caption: str
    draw: Callable[[Path, Path], None]


def draw_named(description: str | None, drawn: Mapping[str, Picture]) -> None:
    """Draw the pictures that the command line names, from finished runs; all if it names none.

    Each is also put beside the runs of its system, where `fedmaml report` finds it.

    Args:
        description: Of the command; the pictures are listed below it.
        drawn: System -> its picture.
    """
    listed = "\n".join(f"    {name:15} {each.caption}" for name, each in drawn.items())
    parser = argparse.ArgumentParser(
        description=f"{description}\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="systems; default: all of these")
    parser.add_argument("--runs", type=Path, default=Path("runs/atlas"), help="folder of all runs")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the pictures")
    arguments = parser.parse_args()
    for name in arguments.names or drawn:
        if name not in drawn:
            parser.error(f"{name} has no picture here; there are {', '.join(drawn)}")
        file, beside = arguments.out / f"{name}.svg", arguments.runs / name / FOLDER
        drawn[name].draw(arguments.runs, file)
        beside.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, beside / f"{drawn[name].caption}.svg")


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
