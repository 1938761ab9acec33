"""Shared by all figures: styles, looks of strategies, and how a drawing becomes a file.

Strategies differ in colour, line style and marker, so nothing depends on colour alone; colours are
dark enough for white paper and differ in lightness for colour-blind readers.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.report import series, words

logger = logging.getLogger("fedmaml")

_DOTS_PER_INCH = {"page": 200, "paper": 600}
INK, GREY, FAINT = "#1c1c1c", "#6b6b6b", "#e3e3e3"
SERIES = ("#0b5fa5", "#c2410c", "#0f766e", "#9d2f7f", "#8a6100", "#4b3fa8", "#a11d33", "#3f6212")
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", (0, (6, 2)), (0, (3, 1.5, 1, 1.5)), (0, (1.2, 1.2)), (0, (8, 2, 1, 2, 1, 2)))
_THIN_MARKERS = ("x", "+", "1", "2")
_DASHES = ((0, (5, 3)), (0, (2, 2)), (0, (6, 2, 1, 2)), (0, (1, 3)))
_HANDLE = {True: 2.4, False: 1.0}  # of a legend's entry, with a line or a marker alone, in letters
COLOURS = (INK, GREY, FAINT, *SERIES)
"""All colours of drawings, beside white; the page replaces them where it is dark."""
LOCAL = "local"
"""The strategy without training: it is so far from the others that it does not set an axis."""
PAD = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
"""Behind letters that stand among lines."""


@dataclass(frozen=True)
class Style:
    """How figures look.

    Attributes:
        name: "page", of a report; "paper", of an article.
        width: Inches.
        points: Size of letters.
        family: Of letters; matplotlib brings its fonts.
    """

    name: str
    width: float
    points: float
    family: str

    def settings(self) -> Any:
        """Return the settings of matplotlib."""
        small = 0.95 * self.points
        return _SETTINGS | {
            "font.family": self.family,
            "font.size": self.points,
            "axes.labelsize": self.points,
            "xtick.labelsize": small,
            "ytick.labelsize": small,
            "legend.fontsize": small,
            "axes.linewidth": 0.08 * self.points,
            "grid.linewidth": 0.07 * self.points,
            "lines.linewidth": 0.17 * self.points,
            "lines.markersize": 0.5 * self.points,
            # On a page the reader's font; in a paper glyphs, which need none.
            "svg.fonttype": "none" if self.name == "page" else "path",
        }


PAGE = Style("page", 4.0, 10, "DejaVu Sans")
"""288 points wide, so that letters are not made smaller on a phone of 390 pixels."""
PAPER = Style("paper", 3.25, 8, "STIXGeneral")
"""A column of the usual two; letters like those of Times."""
STYLES = {style.name: style for style in (PAGE, PAPER)}

_SETTINGS: dict[str, Any] = {
    "figure.dpi": 72,
    "figure.constrained_layout.use": True,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": FAINT,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # whole TrueType fonts, which publishers ask for
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure before it has a size and a format.

    Attributes:
        name: Of its files, without ending.
        section: Where it stands on the page.
        title: What it shows, in a few words.
        alternative: What it shows, in words and numbers, for those who do not see it.
        paint: Draws it.
        header: Heads of its numbers.
        rows: Its numbers, as drawn.
        looks: Line -> look, for a legend above the axes.
        lines: Whether the legend shows lines, or markers alone.
        height: Of the axes, in inches, where letters have 10 points.
    """

    name: str
    section: str
    title: str
    alternative: str
    paint: Callable[[Axes], None]
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    looks: Mapping[str, "Look"] = field(default_factory=dict)
    lines: bool = True
    height: float = 2.9


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
    looks = {LOCAL: Look(GREY, "o", ":"), REFERENCE: Look(INK, "o", "-")}
    for position, name in enumerate(name for name in names if name not in looks):
        looks[name] = Look(
            SERIES[position % len(SERIES)],
            _MARKERS[position % len(_MARKERS)],
            _LINES[(position + (REFERENCE in names)) % len(_LINES)],
        )
    return looks


def looks_of_references(names: Sequence[str]) -> dict[str, Look]:
    """Return how each reference is drawn: grey, dashed, with a thin marker."""
    return {
        name: Look(GREY, _THIN_MARKERS[position % len(_THIN_MARKERS)],
                   _DASHES[position % len(_DASHES)])
        for position, name in enumerate(names)
    }  # fmt: skip


def file_name(*parts: str) -> str:
    """Return a name for the files of a figure: letters, digits and hyphens."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") or "x" for part in parts)


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
        markevery=every, label=words.shown(name),
    )  # fmt: skip


def size(points: float) -> float:
    """Return a size, given for letters of 10 points, in the style that is drawn now."""
    return points * float(mpl.rcParams["font.size"]) / 10


def render(
    drawing: Drawing, style: Style, formats: Sequence[str]
) -> tuple[dict[str, bytes], float]:
    """Return a drawing as files, the same bytes every time.

    Args:
        drawing: What.
        style: How.
        formats: Of "svg", "png" and "pdf".

    Returns:
        Format -> content, and the points at the top of the figure that the legend takes.
    """
    with mpl.rc_context(), _letters_said_once(drawing.name):
        mpl.rcdefaults()  # nobody's own matplotlibrc
        mpl.rcParams.update(style.settings() | {"svg.hashsalt": f"fedmaml {drawing.name}"})
        labels = {name: words.shown(name) for name in drawing.looks}
        columns = _columns(labels.values(), style, _HANDLE[drawing.lines])
        rows = -(-len(labels) // columns)
        height = (drawing.height + 0.2 * rows) * style.points / 10
        canvas = Canvas(figsize=(style.width, height))
        drawing.paint(canvas.add_subplot())
        legend = _legend(canvas, drawing, labels, columns) if labels else None
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")  # it is laid out; once is enough for all files
        top = legend.get_window_extent().y0 if legend else canvas.bbox.y1
        files = {name: _saved(canvas, name, style) for name in formats}
        return files, float(canvas.bbox.y1 - top)


@contextmanager
def _letters_said_once(name: str) -> Iterator[None]:
    """Say in one line which letters no font has; matplotlib says it of each, every time."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    letters: dict[str, None] = {}
    for each in caught:
        if missing := re.match(r"Glyph (\d+) .*missing from font", str(each.message)):
            letters[chr(int(missing[1]))] = None
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if letters:
        logger.warning(
            "figure %s: matplotlib's fonts lack %s; the page shows them, a PNG or PDF file shows "
            "boxes", name, " ".join(letters),
        )  # fmt: skip


def _saved(canvas: Canvas, kind: str, style: Style) -> bytes:
    nothing: dict[str, dict[str, Any]] = {
        "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
        "png": {"Software": None},
        "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    }
    file = io.BytesIO()
    dots = _DOTS_PER_INCH[style.name] if kind == "png" else "figure"
    canvas.savefig(file, format=kind, metadata=nothing[kind], dpi=dots)
    return file.getvalue()


def _columns(labels: Collection[str], style: Style, handle: float) -> int:
    """Return how many entries of a legend stand beside each other, read line by line."""
    letters = 0.95 * style.points
    font = FontProperties(family=style.family)
    widths = [
        (handle + 1.8) * letters + TextPath((0, 0), label, letters, font).get_extents().width
        for label in labels
    ]
    return max(
        (columns for columns in range(1, len(widths) + 1)
         if sum(max(widths[at::columns]) for at in range(columns)) <= 72 * style.width),
        default=1,
    )  # fmt: skip


def _legend(canvas: Canvas, drawing: Drawing, labels: Mapping[str, str], columns: int) -> Legend:
    """Put a legend above the axes, to be read line by line."""
    handles = [
        Line2D(
            [], [], color=look.colour, marker=look.marker, label=labels[name],
            linestyle=look.line if drawing.lines else "none",
        )
        for name, look in drawing.looks.items()
    ]  # fmt: skip
    by_column = [handle for column in range(columns) for handle in handles[column::columns]]
    legend = canvas.legend(
        handles=by_column, loc="outside upper left", ncols=columns,
        handlelength=_HANDLE[drawing.lines],
        columnspacing=1.1, handletextpad=0.5, borderaxespad=0.2,
    )  # fmt: skip
    legend.set_gid("legend")
    return legend
