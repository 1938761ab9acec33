"""A table for LaTeX: a float of the package booktabs, with caption and label, that fits a width."""

from collections.abc import Sequence
from dataclasses import replace

from fedmaml.core.errors import ConfigurationError
from fedmaml.tables.table import Table

POINTS_PER_INCH = 72.27
COLUMN, PAGE = 3.25, 6.75  # inches of the usual template with two columns
_GAP = 4.0  # points on either side of a column
_SIZES = {r"\footnotesize": 8.0, r"\scriptsize": 7.0}
_EM = {
    **dict.fromkeys("ijl.,:;'!|[]", 0.33), **dict.fromkeys("frst /-I()", 0.4),
    **dict.fromkeys("mwMW%@&", 1.03), **dict.fromkeys("+<>=µ", 0.85),
    **dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ", 0.79),
}  # fmt: skip
"""Widths of Computer Modern, or more; all other letters and digits are narrower than `_USUAL`."""
_USUAL = 0.56


def to_latex(table: Table) -> list[str]:
    """Return the lines of a ``tabular`` of the package booktabs, without the caption."""
    sides = ("l" if i in table.text_columns else "r" for i in range(len(table.header)))
    head, *rows = (" & ".join(map(latex, row)) + r" \\" for row in (table.header, *table.rows))
    return [
        rf"\begin{{tabular}}{{{''.join(sides)}}}",
        *(r"\toprule", head, r"\midrule", *rows, r"\bottomrule"),
        r"\end{tabular}",
    ]


def to_float(table: Table, label: str, width: float, first: Sequence[str] = ()) -> str:
    r"""Return a ``table`` with caption and label for ``\input``.

    Columns that do not fit are left out, the least important first; a comment names them.

    Args:
        table: With its caption.
        label: For ``\ref``.
        width: Of the column of text, in inches.
        first: Heads of columns, the most important first; then come the others in their order.

    Raises:
        ConfigurationError: If not even two columns fit.
    """
    size, kept = _fitting(table, width, first)
    left_out = [head for place, head in enumerate(table.header) if place not in kept]
    name = "table" if width <= (COLUMN + PAGE) / 2 else "table*"
    lines = [f"% Needs \\usepackage{{booktabs}}; fits {width:g} in."]
    if left_out:
        lines.append(f"% Left out, since they do not fit: {'; '.join(left_out)}.")
    lines += [
        rf"\begin{{{name}}}[t]",
        r"\centering",
        rf"\caption{{{latex(table.caption)}.}}",
        rf"\label{{{label}}}",
        rf"{size}\setlength{{\tabcolsep}}{{{_GAP:g}pt}}",
        *to_latex(_with_columns(table, kept)),
        rf"\end{{{name}}}",
    ]
    return "\n".join(lines) + "\n"


def _fitting(table: Table, width: float, first: Sequence[str]) -> tuple[str, list[int]]:
    """Return a size of letters, and the columns that fit."""
    known = [table.header.index(head) for head in first if head in table.header]
    ranked = list(dict.fromkeys([0, *known, *range(len(table.header))]))
    for size, points in _SIZES.items():
        kept: list[int] = []
        for place in ranked:
            if _width(table, [*kept, place], points) > width * POINTS_PER_INCH:
                break
            kept.append(place)
        if len(kept) >= min(4, len(ranked)) or (points == min(_SIZES.values()) and len(kept) > 1):
            return size, sorted(kept)
    raise ConfigurationError(
        f"a table of {', '.join(table.header[place] for place in ranked[:2])} does not fit "
        f"{width:g} in; give a larger --width, e.g. {COLUMN:g}in"
    )


def _width(table: Table, columns: Sequence[int], points: float) -> float:
    """Return the most points that some columns take."""
    cells = ([row[place] for row in (table.header, *table.rows)] for place in columns)
    return sum(max(map(em, column)) * points + 2 * _GAP for column in cells)


def em(text: str) -> float:
    """Return the width of a text in Computer Modern, or a little more, in units of its size."""
    return sum(_EM.get(letter, _USUAL) for letter in text)


def _with_columns(table: Table, kept: Sequence[int]) -> Table:
    return replace(
        table,
        header=tuple(table.header[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in table.rows),
        text_columns=tuple(new for new, old in enumerate(kept) if old in table.text_columns),
    )


def latex(text: str) -> str:
    """Escape what LaTeX reads as a command, and write minus signs and "<" as mathematics."""
    if text == "–":
        return "--"
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    for character, command in (("<", "$<$"), ("µ", r"$\mu$"), ("·", r"$\cdot$")):
        text = text.replace(character, command)
    return " ".join(
        f"${word}$" if word[:1] in "+-" and word[1:2].isdigit() else word for word in text.split()
    )
