"""How pictures of the cards become files: SVG whose bytes are the same for the same content."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.atlas.systems import EXPERIMENTS
from fedmaml.report.canvas import PAGE

FIGURES = EXPERIMENTS.parents[1] / "docs" / "figures"


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
