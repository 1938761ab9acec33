"""Numbers as text."""

import pytest

from fedmaml.quantities import decimal_prefix, number, p_text, quantity, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999.4, "999 B"),
        (999.6, "1.00 kB"),
        (2_313_600, "2.31 MB"),
        (99.96e9, "100 GB"),
        (9e12, "9.00 TB"),
        (4.2e15, "4.20 PB"),
        (-57_000, "-57.0 kB"),
        (None, "unknown B"),
    ],
)
def test_quantities_have_three_digits_and_a_prefix(value: float | None, text: str) -> None:
    assert quantity(value, "B") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(5.0, "5 s"), (0.9996, "1 s"), (0.0302, "30.2 ms"), (2e-6, "2.00 µs"), (1e-7, "1e-07 s")],
)
def test_less_than_one_has_a_prefix_down_to_a_millionth(value: float, text: str) -> None:
    assert quantity(value, "s") == text


def test_the_prefix_of_an_axis_is_that_of_its_largest_value() -> None:
    assert [decimal_prefix(value) for value in (3e9, 1.0, 0.0)] == [("G", 1e9), ("", 1), ("", 1)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0.000"), (0.0004, "0.0004"), (-0.81234, "-0.812"), (2.345, "2.35"),
     (12.34, "12.3"), (4321.0, "4321"), (250_000.0, "2e+05")],
)  # fmt: skip
def test_numbers_have_three_digits_or_more(value: float | None, text: str) -> None:
    assert number(value) == text
    assert signed(value) == (text if value is None or value < 0 else f"+{text}")


def test_p_values_are_short() -> None:
    reported = {None: "–", 0.0004: "<.001", 0.0421: ".042", 1.0: "1.000"}
    assert {value: p_text(value) for value in reported} == reported
