"""Steps and shots: bands of one seed, and references beside the strategies."""

import pytest

from fedmaml.report import adaptation
from fedmaml.report.canvas import looks_of
from fedmaml.report.inline import finished
from tests.report.made import material, reference, row, run

METRIC = {
    "before": 0.2, "ci95_before": [0.1, 0.3], "after": 0.8, "ci95": [0.7, 0.9],
    "at_shots": {"5": {"mean": 0.5, "ci95": None}},
}  # fmt: skip


def test_the_band_of_one_seed_is_its_interval_over_clients() -> None:
    curve = adaptation.at_shots(material(fomaml=(run([], **METRIC),)))["fomaml"]
    assert curve.mean.tolist() == [0.2, 0.5, 0.8]
    assert curve.low.tolist() == [0.1, 0.5, 0.7]  # without an interval there is no band
    assert curve.high.tolist() == [0.3, 0.5, 0.9]


def test_the_band_of_several_seeds_is_their_range() -> None:
    other = METRIC | {"before": 0.4}
    runs = (run([], **METRIC), run([], seed=1, **other))
    curve = adaptation.at_shots(material(fomaml=runs))["fomaml"]
    assert curve.low.tolist() == [0.2, 0.5, 0.8]
    assert curve.high.tolist() == [0.4, 0.5, 0.8]


def test_the_three_best_federated_references_are_lines_with_names() -> None:
    values = {"constant": 0.1, "tree": 0.4, "forest": 0.6, "neighbour": 0.5}
    references = [reference(name, {0: value}) for name, value in values.items()]
    references.append(reference("pooled", {0: 0.9}, federated=False))
    made = material(fomaml=(run([row(0, 0.8)], references, **METRIC),))
    _, shots = adaptation.drawings(made, looks_of(["fomaml"]), "accuracy")
    assert list(shots.looks) == ["fomaml", "tree", "forest", "neighbour"]
    assert ("forest", None, pytest.approx(0.6), None, None) in shots.rows
    assert "References: tree 0.400; forest 0.600; neighbour 0.500." in shots.alternative
    letters = finished(shots).svg
    assert ">forest<" in letters
    assert ">constant<" not in letters
