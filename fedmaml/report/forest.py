"""The metric of groups of clients as a forest: groups and strategies, with references."""

from collections.abc import Iterator, Mapping
from textwrap import shorten

from matplotlib.axes import Axes

from fedmaml.report import words
from fedmaml.report.canvas import (
    FAINT,
    LOCAL,
    Drawing,
    Look,
    file_name,
    looks_of_references,
    size,
)
from fedmaml.report.groups import Forest, Mark, forests
from fedmaml.report.placing import limits_without
from fedmaml.report.reading import Material

_REACH = 0.6  # of the range of the means: how far intervals stretch an axis beyond it
_LETTERS = 22  # of a group's name


def drawings(material: Material, looks: Mapping[str, Look]) -> Iterator[Drawing]:
    """Draw every label by the headline metric, in section "groups"; then by further metrics."""
    found = [*forests(material)]
    for forest in sorted(found, key=lambda forest: forest.metric != material.metric):
        yield _drawing(forest, looks, headline=forest.metric == material.metric)


def _drawing(forest: Forest, looks: Mapping[str, Look], *, headline: bool) -> Drawing:
    label, names = words.metric_label(forest.metric), [*forest.lines]
    others = looks_of_references([*forest.references])
    block = len(names) + bool(others) + 0.8  # lines from one group to the next

    def paint(axes: Axes) -> None:
        ends = _limits(forest)
        axes.set_xlim(*ends)
        for row, group in enumerate(forest.groups):
            top = -row * block
            if row % 2 == 0:
                axes.axhspan(top + 0.9, top + 0.9 - block, color=FAINT, alpha=0.35, linewidth=0)
            for name, means in forest.references.items():
                _reference(axes, means.get(group), top, len(names), others[name])
            for line, name in enumerate(names):
                _mark(axes, forest.lines[name].get(group), top - line, looks[name], ends)
        middle = (block - 1.8) / 2
        axes.set_yticks(
            [-row * block - middle for row in range(len(forest.groups))],
            [
                _short(group) + (f" ({count})" if max(forest.groups.values()) > 1 else "")
                for group, count in forest.groups.items()
            ],
        )
        axes.set_ylim(-len(forest.groups) * block + 0.9, 0.9)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        better = "right" if forest.metric.better == "higher" else "left"
        axes.set_xlabel(f"{label} (better: {better})", fontsize=size(9.5))

    title = f"{words.capital(label)} after adaptation by {forest.label.replace('_', ' ')}"
    if forest.left_out:
        shown = len(forest.groups)
        title += f"; the {shown} largest of {shown + forest.left_out} groups are shown"
    return Drawing(
        file_name("groups", forest.label, *([] if headline else [forest.metric.name])),
        "groups" if headline else "groups-further", title,
        words.groups(
            {name: {group: mark.mean for group, mark in marks.items()}
             for name, marks in forest.lines.items()} | dict(forest.references),
            [*forest.groups],
        ),
        paint, ("label", "group", "clients", "strategy", "mean", "low", "high"), _rows(forest),
        looks={name: looks[name] for name in names} | others, lines=False,
        height=0.6 + 0.085 * block * len(forest.groups),
    )  # fmt: skip


def _limits(forest: Forest) -> tuple[float, float]:
    """Return the ends of the axis: means, and intervals as far as they leave the means apart."""
    marks = {name: [*members.values()] for name, members in forest.lines.items() if members}
    means = {name: [mark.mean for mark in found] for name, found in marks.items()}
    means |= {name: [*found.values()] for name, found in forest.references.items() if found}
    extents = {name: (min(found), max(found)) for name, found in means.items()}
    others = [end for name, ends in extents.items() if name != LOCAL for end in ends]
    apart = limits_without(LOCAL, extents)  # None: it is near the others
    inside = others if apart else [end for ends in extents.values() for end in ends]
    low, high = min(inside), max(inside)
    reach = _REACH * (high - low) or abs(high) or 1.0
    bounds = [
        end
        for name, found in marks.items()
        if not (apart and name == LOCAL)
        for mark in found
        for end in mark.interval or ()
    ]
    low = max(low - reach, min([low, *bounds]))
    high = min(high + reach, max([high, *bounds]))
    if forest.metric.unit == "1" and min(inside) >= 0 and max(inside) <= 1:
        low, high = max(low, 0.0), min(high, 1.0)  # fractions
    margin = 0.04 * (high - low) or reach
    return low - margin, high + margin


def _mark(
    axes: Axes, mark: Mark | None, place: float, look: Look, ends: tuple[float, float]
) -> None:
    if mark is None:
        return
    if not ends[0] <= mark.mean <= ends[1]:  # `LOCAL`, far from the others
        left = mark.mean < ends[0]
        axes.plot(
            ends[0] if left else ends[1], place, "<" if left else ">", color=look.colour,
            markersize=size(4.5), clip_on=False,
        )  # fmt: skip
        return
    if mark.interval is not None:
        axes.plot(mark.interval, [place, place], color=look.colour, linewidth=size(1.2))
    axes.plot(
        mark.mean, place, look.marker, color=look.colour, markersize=size(4.8),
        markeredgecolor="white", markeredgewidth=size(0.4), zorder=3,
    )  # fmt: skip


def _reference(axes: Axes, mean: float | None, top: float, lines: int, look: Look) -> None:
    """Draw a thin line through the strategies of a group, its marker below them."""
    if mean is not None:
        axes.plot([mean, mean], [top + 0.6, top - lines], color=look.colour, linestyle=look.line,
                  linewidth=size(0.8), zorder=1)  # fmt: skip
        axes.plot(mean, top - lines, look.marker, color=look.colour, markersize=size(5),
                  markeredgewidth=size(1.2))  # fmt: skip


def _short(name: str) -> str:
    return shorten(name, _LETTERS, placeholder="…") if " " in name else name[:_LETTERS]


def _rows(forest: Forest) -> tuple[tuple[object, ...], ...]:
    rows: list[tuple[object, ...]] = []
    for group, count in forest.groups.items():
        for name, marks in forest.lines.items():
            if mark := marks.get(group):
                ends = mark.interval or (None, None)
                rows.append((forest.label, group, count, name, mark.mean, *ends))
        for name, means in forest.references.items():
            if group in means:
                rows.append((forest.label, group, count, name, means[group], None, None))
    return tuple(rows)
