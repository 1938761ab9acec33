"""The picture of the atlas: a forest plot, one line for each system."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from fedmaml.report.canvas import GREY, INK, PAGE

_COLOURS = {"better": "#0b5fa5", "worse": "#c2410c"}
_MIN, _MAX = -1.0, 1.0


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw how much of the best honest baseline's error meta-learning removes on each system.

    Args:
        rows: Those of the map.
        path: An SVG file; the same rows give the same bytes.
    """
    ordered = sorted(rows.values(), key=lambda row: row["removed"]["mean"])
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(PAGE.settings() | {"svg.hashsalt": "fedmaml", "svg.fonttype": "path"})
        figure = Figure((9.0, 0.9 + 0.34 * len(ordered)))
        axes = figure.subplots()
        for place, row in enumerate(ordered):
            colour = _COLOURS.get(row["verdict"], GREY)
            ends = [min(max(row["removed"][end], _MIN), _MAX) for end in ("low", "high")]
            axes.plot(ends, [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
            mean = min(max(row["removed"]["mean"], _MIN), _MAX)
            axes.plot([mean], [place], "o", color=colour, markersize=6)
            axes.annotate(
                f"{row['method']} / {row['baseline']}", (1.02, place), va="center",
                xycoords=("axes fraction", "data"), fontsize=8, color=GREY, annotation_clip=False,
            )  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(ordered)), [row["title"] for row in ordered])
        axes.grid(visible=False, axis="y")
        axes.set_xlim(_MIN, _MAX)
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xlabel("share of the best baseline's error that is removed")
        figure.savefig(path, metadata={"Date": None}, format="svg")
