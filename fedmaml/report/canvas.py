"""Shared by all figures of a report: style, looks of strategies, output as SVG and PNG.

Strategies differ in colour, line style and marker, so nothing depends on colour alone; colours are
dark enough for white paper and differ in lightness for colour-blind readers.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.report import series

_WIDTH, _HEIGHT = 4.0, 2.9
"""Inches: 288 points wide, so that letters are not made smaller on a phone of 390 pixels."""
_DOTS_PER_INCH = 200
INK, GREY, _FAINT = "#1c1c1c", "#6b6b6b", "#e3e3e3"
_COLOURS = ("#0b5fa5", "#c2410c", "#0f766e", "#9d2f7f", "#8a6100", "#4b3fa8", "#a11d33", "#3f6212")
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", (0, (6, 2)), (0, (3, 1.5, 1, 1.5)), (0, (1.2, 1.2)), (0, (8, 2, 1, 2, 1, 2)))
STYLE: Any = {
    "figure.dpi": 72,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Figure:
    """A figure, ready for page and file.

    Attributes:
        name: Of its files, without ending.
        section: Where it stands on the page.
        title: What it shows, in a few words.
        alternative: What it shows, in words and numbers, for those who do not see it.
        svg: The drawing, without XML declaration and with ids of its own.
        png: The same as pixels.
    """

    name: str
    section: str
    title: str
    alternative: str
    svg: str
    png: bytes


@dataclass(frozen=True)
class Look:
    """How a strategy is drawn.

    Attributes:
        colour: As matplotlib takes it.
        marker: As matplotlib takes it.
        line: Line style as matplotlib takes it.
    """

    colour: str
    marker: str
    line: Any


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """Return how each strategy is drawn: the baselines in grey and black, always alike."""
    looks = {"local": Look(GREY, "o", ":"), REFERENCE: Look(INK, "o", "-")}
    for position, name in enumerate(name for name in names if name not in looks):
        looks[name] = Look(
            _COLOURS[position % len(_COLOURS)],
            _MARKERS[position % len(_MARKERS)],
            _LINES[(position + (REFERENCE in names)) % len(_LINES)],
        )
    return looks


def line(axes: Axes, name: str, curve: series.Curve, look: Look, every: int = 0) -> None:
    """Draw the mean of a curve and the band between its seeds.

    Args:
        axes: Where.
        name: Of the strategy.
        curve: What.
        look: How.
        every: A marker at every ``every``-th point; 0: at about six points.
    """
    every = every or max(1, len(curve.x) // 6)
    axes.fill_between(curve.x, curve.low, curve.high, color=look.colour, alpha=0.11, linewidth=0)
    axes.plot(
        curve.x, curve.mean, color=look.colour, linestyle=look.line, marker=look.marker,
        markevery=every, label=name,
    )  # fmt: skip


def figure(
    name: str,
    section: str,
    title: str,
    alternative: str,
    paint: Callable[[Axes], None],
    *,
    looks: Mapping[str, Look] = MappingProxyType({}),
    lines: bool = True,
    height: float = _HEIGHT,
) -> Figure:
    """Draw on a fresh canvas, with a legend above it for the looks that are named."""
    with mpl.rc_context():
        mpl.rcdefaults()  # nobody's own matplotlibrc
        mpl.rcParams.update(STYLE | {"svg.hashsalt": f"fedmaml {name}"})
        columns = 3 if max(map(len, looks), default=0) <= 10 else 1
        legend_rows = -(-len(looks) // columns)
        canvas = Canvas(figsize=(_WIDTH, height + 0.2 * legend_rows))
        paint(canvas.add_subplot())
        if looks:
            _legend(canvas, looks, lines, columns)
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")  # it is laid out; once is enough for both files
        drawing, pixels = io.StringIO(), io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(drawing, format="svg", metadata=nothing)
        canvas.savefig(pixels, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    svg = _own_ids(drawing.getvalue(), name, title, alternative)
    return Figure(name, section, title, alternative, svg, pixels.getvalue())


def _legend(canvas: Canvas, looks: Mapping[str, Look], lines: bool, columns: int) -> None:
    """Put a legend above the axes, to be read line by line."""
    handles = [
        Line2D(
            [], [], color=look.colour, marker=look.marker, label=strategy,
            linestyle=look.line if lines else "none",
        )
        for strategy, look in looks.items()
    ]  # fmt: skip
    by_column = [handle for column in range(columns) for handle in handles[column::columns]]
    canvas.legend(
        handles=by_column, loc="outside upper left", ncols=columns, handlelength=2.4,
        columnspacing=1.1, handletextpad=0.5, borderaxespad=0.2,
    )  # fmt: skip


def _own_ids(drawing: str, name: str, title: str, alternative: str) -> str:
    """Make a drawing fit to stand in a page with others: no ids in common, and words for it."""
    svg = drawing[drawing.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    head, _, body = svg.partition(">")
    label = escape(f"{title}. {alternative}")
    return f'{head} role="img" aria-label="{label}">\n<title>{escape(title)}</title>{body}'
