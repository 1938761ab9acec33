"""What all figures share: legends that fit, names of files."""

import pytest

from fedmaml.report.canvas import PAGE, PAPER, Style, _columns, file_name


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
