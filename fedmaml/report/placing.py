"""Where points and their labels stand: equal points beside each other, `LOCAL` at the edge."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from fedmaml.quantities import signed
from fedmaml.report import words
from fedmaml.report.canvas import GREY, LOCAL, PAD, Look, size

_FAR = 0.5
"""Of the range of the others: from here on what lies outside would set the axis."""
_MARGIN = 0.08
_EQUAL = 5.0  # points between symbols that cannot be distinguished
_APART = 8.0  # points between symbols that are set apart


def limits_without(
    name: str, extents: Mapping[str, tuple[float, float]], *included: float
) -> tuple[float, float] | None:
    """Return the limits of an axis that one line does not set; None if it lies near the others.

    Args:
        name: Of the line that may lie outside.
        extents: Line -> its smallest and its largest value.
        included: Values that the axis has in any case.
    """
    others = [end for other, ends in extents.items() if other != name for end in ends]
    others += included
    if name not in extents or not others:
        return None
    low, high = min(others), max(others)
    span = high - low
    least, most = extents[name]
    inside = low - _FAR * span <= least and most <= high + _FAR * span
    if inside or span == 0:
        return None
    return low - _MARGIN * span, high + _MARGIN * span


def at_the_edge(
    axes: Axes, value: float, place: float, look: Look, ends: tuple[float, float]
) -> None:
    """Draw an arrow at the edge of the x-axis, with the value that lies beyond it."""
    left = value < ends[0]
    axes.plot(
        ends[0] if left else ends[1], place, "<" if left else ">", color=look.colour,
        markersize=size(7), clip_on=False,
    )  # fmt: skip
    text = signed(value).replace("-", "\N{MINUS SIGN}")
    axes.annotate(
        text, (ends[0] if left else ends[1], place), (size(8 if left else -8), 0),
        textcoords="offset points", ha="left" if left else "right", va="center",
        color=GREY, fontsize=size(9.5), bbox=PAD,
    )  # fmt: skip


def label_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    looks: Mapping[str, Look],
    filled: Collection[str],
    ends: tuple[float, float] | None,
) -> None:
    """Draw points with their names beside them; those that would hide others are set apart.

    Args:
        axes: With its final limits.
        points: Line -> x and y.
        looks: Line -> look.
        filled: Lines whose symbols are filled.
        ends: Limits of y, if `LOCAL` lies outside; then it is an arrow at the edge.
    """
    outside = ends is not None and LOCAL in points
    shown = dict(points)
    if outside and ends is not None:
        below = points[LOCAL][1] < ends[0]
        shown[LOCAL] = (points[LOCAL][0], ends[0] if below else ends[1])
    names = list(shown)
    axes.figure.draw_without_rendering()  # type: ignore[union-attr] # places in points from now on
    at = axes.transData.transform(np.array([shown[name] for name in names]))
    box = axes.get_window_extent()
    moved = _set_apart(at)
    for name, shift in zip(names, moved, strict=True):
        look = looks[name]
        marker, inside = look.marker, look.colour if name in filled else "white"
        if outside and name == LOCAL:
            marker = "v" if points[LOCAL][1] < shown[LOCAL][1] else "^"
        beside = ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
        axes.plot(
            *shown[name], marker, color=look.colour, markerfacecolor=inside, markersize=size(7.5),
            markeredgewidth=size(1.5), transform=axes.transData + beside, clip_on=False, zorder=3,
        )  # fmt: skip
    texts = {name: words.shown(name) for name in names}
    if outside:
        texts[LOCAL] += f" {signed(points[LOCAL][1]).lstrip('+')}"
    right = at[:, 0] < box.x0 + 0.55 * box.width
    for side in (True, False):
        chosen = np.flatnonzero(right == side)
        heights = _spread(at[chosen, 1], size(12), box.y0 + size(5), box.y1 - size(5))
        for index, height in zip(chosen, heights, strict=True):
            _label(axes, texts[names[index]], shown[names[index]], at[index], moved, height,
                   right=side, neighbours=_near(at, int(index)))  # fmt: skip


def _label(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    at: np.ndarray,
    moved: np.ndarray,
    height: float,
    *,
    right: bool,
    neighbours: np.ndarray,
) -> None:
    """Write a name beside the symbols that stand together, with a thin line to its own."""
    edge = moved[neighbours].max() + size(9) if right else moved[neighbours].min() - size(9)
    rise = height - at[1]
    far = abs(rise) > size(4) or len(neighbours) > 1
    axes.annotate(
        text, point, (edge + (size(5) if right else -size(5)) * far, rise),
        textcoords="offset points", ha="left" if right else "right", va="center",
        fontsize=size(9.5), annotation_clip=False, in_layout=False, zorder=2, bbox=PAD,
        arrowprops={
            "arrowstyle": "-", "color": GREY, "linewidth": size(0.7), "shrinkA": 1,
            "shrinkB": size(4), "relpos": (0 if right else 1, 0.5),
        } if far else None,
    )  # fmt: skip


def _near(at: np.ndarray, index: int) -> np.ndarray:
    """Return the points that cannot be distinguished from one of them, itself included."""
    return np.flatnonzero(np.hypot(*(at - at[index]).T) < size(_EQUAL))


def _set_apart(at: np.ndarray) -> np.ndarray:
    """Return how far each point moves to the side, so that equal ones stand beside each other."""
    moved = np.zeros(len(at))
    for index in range(len(at)):
        near = _near(at, index)
        place = int(np.flatnonzero(near == index)[0])
        moved[index] = (place - (len(near) - 1) / 2) * size(_APART)
    return moved


def _spread(heights: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Return heights at least so far apart, in the same order, near the given ones."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, dtype=float)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + least)
    if len(order):
        placed[order[-1]] = min(placed[order[-1]], high)
    for after, before in pairwise(order[::-1]):
        placed[before] = min(placed[before], placed[after] - least)
    if len(order) and placed[order[0]] < low:
        placed += low - placed[order[0]]
    return [float(height) for height in placed]
