"""Clients under two strategies: which strategies, which clients, and what the picture says."""

import numpy as np

from fedmaml.report import pairs
from fedmaml.report.canvas import Drawing, looks_of
from fedmaml.report.inline import finished
from fedmaml.report.reading import Material
from tests.report.made import material, row, run

COMPARED = object()


def drawing(made: Material) -> Drawing | None:
    return pairs.drawing(made, looks_of(list(made.runs)))


def clients(*values: float | str, seed: int = 0):
    return run([row(at, value) for at, value in enumerate(values)], seed=seed)


def test_the_best_meta_learning_strategy_stands_against_fedavg_client_by_client() -> None:
    made = material(
        COMPARED,
        local=(clients(0.9, 0.9, 0.9, 0.9),),  # better, but a baseline
        fedavg=(clients(0.5, 0.5, 0.5, 0.5),),
        reptile=(clients(0.1, 0.1, 0.1, 0.1),),
        fomaml=(clients(0.6, 0.7, 0.5, 0.4),),
    )
    found = drawing(made)
    assert found.header == ("seed", "client", "fedavg", "fomaml")
    assert found.rows[1] == (0, 1, 0.5, 0.7)
    assert found.alternative == (
        "Of 4 clients of all seeds, FOMAML is better at 50 %, fine-tuned FedAvg at 25 %; they are "
        "equal at 25 %."
    )
    letters = finished(found).svg
    assert "FOMAML better:" in letters
    assert "FedAvg better:" in letters


def test_pairs_are_of_one_seed_and_clients_that_diverged_are_left_out() -> None:
    made = material(
        COMPARED,
        fedavg=(clients(0.1, 0.2, seed=0), clients(0.3, "diverged", seed=1)),
        fomaml=(clients(0.5, 0.6, seed=1), clients(0.7, 0.8, seed=2)),
    )
    assert pairs.pairs_of(made, "fomaml") == [(1, 0, 0.3, 0.5)]
    assert drawing(made) is None  # of fewer than three clients


def test_without_comparison_or_meta_learning_there_is_no_picture() -> None:
    three = (clients(0.1, 0.2, 0.3),)
    assert drawing(material(None, fedavg=three, fomaml=three)) is None
    assert drawing(material(COMPARED, fedavg=three, local=three)) is None


def test_of_very_many_clients_some_are_drawn_and_the_title_says_so() -> None:
    many = (clients(*(at / 2000 for at in range(2000))),)
    found = drawing(material(COMPARED, fedavg=many, fomaml=many))
    assert found.title.endswith("; 600 of 2,000 different pairs are shown")
    assert len(found.rows) == 2000


def test_equal_clients_share_a_mark_whose_area_is_their_number() -> None:
    areas = pairs._areas(np.array([1, 4, 9]))
    np.testing.assert_allclose(areas / areas[0], [1, 4, 9])
    wide = pairs._areas(np.array([1, 100, 10_000]))
    assert wide[0] == wide[1] < wide[2]  # as small as can be seen
