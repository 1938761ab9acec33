"""Cells of a metric over stages: which are drawn, and their means."""

import numpy as np
import pytest

from fedmaml.report import cells
from fedmaml.report.inline import finished
from fedmaml.report.reading import Run
from tests.report.made import material, row, run


def stream(names: list[str], stages: list[str], shift: float = 0.0, seed: int = 0) -> Run:
    """Return a run of two clients; a cell has its position plus a tenth of the stage's."""
    columns = {
        f"by_class/{name}:{stage}": at + 0.1 * place + shift
        for at, name in enumerate(names)
        for place, stage in enumerate(stages)
    }
    other = {column: value + 2.0 for column, value in columns.items()}
    return run([row(0, 0.5, **columns), row(1, 0.5, **other)], seed=seed)


SHOTS = ["after", "before", "shots@10", "shots@5"]


def test_means_are_over_clients_and_seeds_and_stages_in_the_order_of_their_counts() -> None:
    runs = (stream(list("abcd"), SHOTS), stream(list("abcd"), SHOTS, shift=0.2, seed=1))
    (found,) = cells.maps(material(fomaml=runs))
    assert (found.metric, found.over, found.stages) == (
        "by_class",
        "shots",
        ("0", "5", "10", "all"),
    )
    expected = np.arange(4)[:, None] + np.array([0.1, 0.3, 0.2, 0.0]) + 1.0 + 0.1
    np.testing.assert_allclose(found.values["fomaml"], expected)


def test_a_map_needs_four_cells_and_a_stage_between_before_and_after() -> None:
    assert not [*cells.maps(material(fomaml=(stream(list("abc"), SHOTS),)))]
    assert not [*cells.maps(material(fomaml=(stream(list("abcd"), ["before", "after"]),)))]
    steps = stream(list("abcd"), ["before", "after@1", "after"])
    (found,) = cells.maps(material(fomaml=(steps,)))
    assert (found.over, found.stages) == ("steps", ("0", "1", "own"))


def test_many_cells_and_stages_are_thinned_and_the_title_says_so() -> None:
    stages = ["before", *(f"shots@{count}" for count in range(1, 30)), "after"]
    made = material(fomaml=(stream([f"day {at}" for at in range(60)], stages),))
    (found,) = cells.maps(made)
    assert len(found.cells) == cells.MAX_CELLS
    assert (found.cells[0], found.cells[-1]) == ("day 0", "day 59")
    assert (len(found.stages), found.stages[0], found.stages[-1]) == (cells.MAX_STAGES, "0", "all")
    (picture,) = cells.drawings(made)
    assert picture.title == "By class, each cell against shots; 24 of 60 cells are shown"


def test_cells_of_fedavg_and_the_best_strategy_are_drawn_with_their_numbers() -> None:
    one = (stream(list("abcd"), SHOTS),)
    made = material(object(), local=one, fedavg=one, fomaml=one)
    (picture,) = cells.drawings(made)
    assert picture.name == "cells-by-class-shots"
    assert {line[0] for line in picture.rows} == {"fedavg", "fomaml"}
    assert picture.rows[0][:3] == ("fedavg", "a", pytest.approx(1.1))
    letters = finished(picture).svg
    for text in (">FOMAML<", ">FedAvg<", ">1.1<"):
        assert text in letters


def test_a_cell_without_a_value_stays_empty() -> None:
    lost = stream(list("abcd"), SHOTS)
    for client in lost.clients:
        client["by_class/a:before"] = None
    (found,) = cells.maps(material(fomaml=(lost,)))
    assert np.isnan(found.values["fomaml"][0, 0])
    (picture,) = cells.drawings(material(fomaml=(lost,)))
    assert "a from – to" in picture.alternative
    assert ">nan<" not in finished(picture).svg


def test_runs_that_diverged_have_no_map() -> None:
    lost = stream(list("abcd"), SHOTS)
    for client in lost.clients:
        client |= {column: "diverged" for column in client if ":" in column}
    assert not [*cells.maps(material(fomaml=(lost,)))]
