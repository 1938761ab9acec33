"""Drawings inside a page: own ids, words, colours that follow the page, one legend for several."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fedmaml.report.canvas import COLOURS, FAINT, GREY, INK, PAGE, SERIES, Drawing, render

VARIABLES = {
    INK: "--ink", GREY: "--soft", FAINT: "--line", "#ffffff": "--paper",
    **{colour: f"--series-{place}" for place, colour in enumerate(SERIES)},
}  # fmt: skip
"""Colour of a drawing -> the page's variable that replaces it."""

_LEGEND = re.compile(r'<g id="[^"]*legend">')
_VIEW = re.compile(r'height="[\d.]+pt" viewBox="0 0 ([\d.]+) ([\d.]+)"')


@dataclass(frozen=True)
class Figure:
    """A figure, ready for page and file.

    Attributes:
        drawing: What it is of.
        svg: The file, without XML declaration and with ids of its own.
        png: The same as pixels.
        top: Points that its legend takes, 0 without one.
    """

    drawing: Drawing
    svg: str
    png: bytes
    top: float

    @property
    def name(self) -> str:
        """Of its files, without ending."""
        return self.drawing.name

    @property
    def title(self) -> str:
        """What it shows, in a few words."""
        return self.drawing.title


def finished(drawing: Drawing) -> Figure:
    """Return a drawing as a report has it."""
    files, top = render(drawing, PAGE, ("svg", "png"))
    return Figure(drawing, own_ids(files["svg"].decode(), drawing), files["png"], top)


def own_ids(text: str, drawing: Drawing) -> str:
    """Make a drawing fit to stand in a page with others: no ids in common, and words for it."""
    name = drawing.name
    svg = text[text.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    head, _, body = svg.partition(">")
    label = escape(f"{drawing.title}. {drawing.alternative}")
    return f'{head} role="img" aria-label="{label}">\n<title>{escape(drawing.title)}</title>{body}'


def sections(figures: Sequence[Figure]) -> dict[str, tuple[str, list[tuple[Figure, str]]]]:
    """Return what each section of the page shows.

    Returns:
        Section -> the legend that its figures share ("" if there is none), and each figure with its
        drawing; one that has lines which the legend lacks keeps its own.
    """
    found: dict[str, list[Figure]] = {}
    for figure in figures:
        found.setdefault(figure.drawing.section, []).append(figure)
    return {section: _with_one_legend(members) for section, members in found.items()}


def _with_one_legend(members: Sequence[Figure]) -> tuple[str, list[tuple[Figure, str]]]:
    if len(members) < 2 or not members[0].top:
        return "", [(figure, in_page(figure.svg)) for figure in members]
    first = members[0]
    known = first.drawing.looks.keys()
    shown = [
        (figure, in_page(_without_legend(figure)
                         if figure.drawing.looks.keys() <= known else figure.svg))
        for figure in members
    ]  # fmt: skip
    return in_page(_legend_of(first)), shown


def in_page(svg: str) -> str:
    """Return a drawing whose colours are the page's."""
    for colour in (*COLOURS, "#ffffff"):
        svg = re.sub(rf"(?<=: ){colour}\b", f"var({VARIABLES[colour]}, {colour})", svg)
    return svg


def _without_legend(figure: Figure) -> str:
    start, end = _legend_at(figure.svg)
    kept = figure.svg[:start] + figure.svg[end:]
    return _VIEW.sub(
        lambda view: f'height="{float(view[2]) - figure.top:.2f}pt" '
        f'viewBox="0 {figure.top:.2f} {view[1]} {float(view[2]) - figure.top:.2f}"',
        kept, count=1,
    )  # fmt: skip


def _legend_of(figure: Figure) -> str:
    """Return the legend alone; the page says in words what each figure shows."""
    start, end = _legend_at(figure.svg)
    view = _VIEW.search(figure.svg)
    assert view is not None, "matplotlib gives every drawing a size"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'aria-hidden="true" width="{view[1]}pt" height="{figure.top:.2f}pt" '
        f'viewBox="0 0 {view[1]} {figure.top:.2f}">'
        "<style>*{stroke-linejoin: round; stroke-linecap: butt}</style>"
        f"{figure.svg[start:end]}</svg>"
    )


def _legend_at(svg: str) -> tuple[int, int]:
    """Return where the group of the legend begins and ends."""
    found = _LEGEND.search(svg)
    assert found is not None, "a figure with a legend has its group"
    depth = 0
    for tag in re.finditer(r"<(/?)g\b[^>]*?(/?)>", svg[found.start() :]):
        depth += -1 if tag[1] else 0 if tag[2] else 1
        if depth == 0:
            return found.start(), found.start() + tag.end()
    raise AssertionError("the group of the legend is closed")
