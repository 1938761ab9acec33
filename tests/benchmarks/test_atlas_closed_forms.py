"""The two systems of the atlas that are known exactly: their tables say what their cards say."""

from pathlib import Path

import pytest

from benchmarks.atlas import closed_forms
from benchmarks.atlas.closed_forms import (
    ERRORS,
    best_rate,
    draw,
    draw_errors,
    draw_plane,
    error_of_least_squares,
    error_of_ridge,
    errors_by_shots,
    loss_after,
    rate_of_fomaml,
    starts,
)


@pytest.mark.parametrize(
    ("steps", "best", "first_order"),
    [(1, 0.454545, 0.454545), (2, 0.448327, 0.60753), (5, 0.390851, 0.42823)],
)
def test_rates_are_the_known_ones(steps: int, best: float, first_order: float) -> None:
    assert best_rate(steps) == pytest.approx(best, abs=1e-5)
    assert rate_of_fomaml(steps) == pytest.approx(first_order, abs=1e-5)


def test_errors_by_shots_are_the_known_ones(monkeypatch) -> None:
    monkeypatch.setattr(closed_forms, "SHOTS", (5, 10, 40))
    assert errors_by_shots(1) == pytest.approx([2.014706, 1.613636, 0.826923], abs=1e-6)
    assert errors_by_shots(5) == pytest.approx([1.747117, 1.110869, 0.352364], abs=1e-6)
    for shots, error in ((2, 2.3092), (10, 0.9633), (40, 0.3322)):
        assert error_of_ridge(shots) == pytest.approx(error, rel=0.01)
    assert error_of_least_squares(40) == pytest.approx(0.3362, abs=1e-4)
    assert error_of_least_squares(11) == float("inf")


@pytest.mark.parametrize(("steps", "name"), [(0, "consensus"), (1, "hub"), (5, "MAML, 5")])
def test_a_start_is_best_for_the_steps_that_it_was_made_for(steps: int, name: str) -> None:
    losses = {start: loss_after(point, steps) for start, point in starts().items()}
    assert min(losses, key=losses.__getitem__).startswith(name)


def test_the_same_drawing_is_the_same_bytes(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(closed_forms, "FIGURES", tmp_path)
    monkeypatch.setattr(closed_forms, "SHOTS", (5, 20))
    monkeypatch.setattr(closed_forms, "ROUNDS", (1, 1, 2, 2))  # ten steps take seconds
    for content, layout in ((draw_plane, ()), (draw_errors, ERRORS)):
        draw("one", content, *layout)
        draw("two", content, *layout)
        assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
