"""What all figures share: legends that fit, names of files."""

import logging
import warnings

import pytest
from matplotlib.axes import Axes

from fedmaml.report.canvas import PAGE, PAPER, Drawing, Style, _columns, file_name, render


@pytest.mark.parametrize("style", [PAGE, PAPER])
def test_columns_of_a_legend_follow_the_width_of_the_letters(style: Style) -> None:
    assert _columns(["MMMMMMMM"] * 4, style, 2.4) < _columns(["iiiiiiii"] * 4, style, 2.4)
    assert _columns(["M" * 100], style, 2.4) == 1
    # One long name makes its own column wide, not the others.
    assert _columns(["a", "a long name of a reference"] * 2, style, 1.0) >= 2


def test_names_of_files_hold_letters_digits_and_hyphens() -> None:
    assert file_name("groups", "Kind of diabetes", "balanced_accuracy") == (
        "groups-kind-of-diabetes-balanced-accuracy"
    )
    assert file_name("groups", "../état") == "groups-tat"
    assert file_name("groups", "∅") == "groups-x"


@pytest.mark.filterwarnings("error")
def test_letters_that_no_font_has_are_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def paint(axes: Axes) -> None:
        axes.text(0, 0, "\u65e5\u672c \u65e5")

    caplog.set_level(logging.WARNING, "fedmaml")
    files, _ = render(Drawing("one", "answer", "t", "a", paint, ("a",), ()), PAGE, ("svg", "png"))
    assert "\u65e5\u672c".encode() in files["svg"]
    (line,) = caplog.messages
    assert line.startswith("figure one: matplotlib's fonts lack \u65e5 \u672c; the page shows them")


def test_other_warnings_of_a_drawing_are_given() -> None:
    def paint(_axes: Axes) -> None:
        warnings.warn("look here", stacklevel=1)

    with pytest.warns(UserWarning, match="look here"):
        render(Drawing("one", "answer", "t", "a", paint, ("a",), ()), PAGE, ("svg",))
