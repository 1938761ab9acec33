"""Groups of clients: their means, intervals and references, and which of them are drawn."""

import pytest

from fedmaml.report import figures, forest, groups
from fedmaml.report.canvas import looks_of
from fedmaml.report.inline import finished
from fedmaml.report.reading import Material
from tests.report.made import material, reference, row, run


def drawn(made: Material) -> list[str]:
    return [one.name for one in forest.drawings(made, looks_of(list(made.runs)))]


def test_a_mark_is_the_mean_over_seeds_of_the_means_over_clients() -> None:
    first = run([row(0, 0.2, group="a"), row(1, 0.4, group="a"), row(2, 0.9, group="b")])
    second = run([row(0, 0.7, group="a"), row(1, 0.5, group="b")], seed=1)
    (found,) = groups.forests(material(fomaml=(first, second)))
    assert found.label == "site"
    assert found.groups == {"a": 2, "b": 1}
    assert found.lines["fomaml"]["a"].mean == pytest.approx((0.3 + 0.7) / 2)
    assert found.lines["fomaml"]["b"].mean == pytest.approx((0.9 + 0.5) / 2)


def test_an_interval_needs_three_clients_of_the_group_or_three_seeds() -> None:
    one = [row(client, 0.1 * client, group="many") for client in range(1, 4)]
    runs = [run([*one, row(9, 0.1 * seed, group="one")], seed=seed) for seed in range(3)]
    (of_two,) = groups.forests(material(fomaml=tuple(runs[:2])))
    marks = of_two.lines["fomaml"]
    assert marks["one"].interval is None
    assert marks["many"].interval is not None
    (of_three,) = groups.forests(material(fomaml=tuple(runs)))
    low, high = of_three.lines["fomaml"]["one"].interval
    # Student's t of 0, .1, .2: 2 degrees of freedom, .1 / sqrt(3) * 4.303; no accuracy is below 0
    assert high == pytest.approx(0.1 + 0.2484, abs=0.03)
    assert low == 0


def test_references_have_their_means_in_each_group_and_the_first_is_never_left_out() -> None:
    clients = [row(0, 0.5, group="a"), row(1, 0.7, group="b")]
    names = ["constant", "tree", "forest", "neighbour"]
    references = [reference(name, {0: 0.1 * at, 1: 0.9}) for at, name in enumerate(names)]
    hidden = [reference("pooled", {0: 1.0, 1: 1.0}, federated=False),
              reference("oracle", {0: 1.0, 1: 1.0}, oracle=True)]  # fmt: skip
    made = run(clients, [*references, *hidden])
    (found,) = groups.forests(material(fomaml=(made,)))
    assert list(found.references) == names  # three best and the first
    assert found.references["tree"] == pytest.approx({"a": 0.1, "b": 0.9})


def test_a_client_that_diverged_leaves_its_group_without_a_mark() -> None:
    made = run([row(0, "diverged", group="a"), row(1, 0.5, group="a"), row(2, 0.5, group="b")])
    (found,) = groups.forests(material(fomaml=(made,)))
    assert list(found.lines["fomaml"]) == ["b"]


def test_clients_of_another_family_belong_to_no_group() -> None:
    rows = [row(0, 0.5, group="a"), row(1, 0.5, group="b")]
    made = run([*rows, row(2, 0.1, group="a", family="elsewhere")])
    (found,) = groups.forests(material(fomaml=(made,)))
    assert found.groups == {"a": 1, "b": 1}


def test_without_labels_or_with_one_group_alone_there_is_no_figure() -> None:
    assert drawn(material(fomaml=(run([row(0, 0.5), row(1, 0.6)]),))) == []
    alone = run([row(0, 0.5, group="a"), row(1, 0.6, group="a")])
    assert drawn(material(fomaml=(alone,))) == []


def test_the_largest_groups_are_drawn_in_natural_order_and_the_title_says_so() -> None:
    rows = [row(number, 0.5, group=str(number % 30)) for number in range(80)]  # 0-19 have three
    (found,) = groups.forests(material(fomaml=(run(rows),)))
    assert list(found.groups) == [str(number) for number in range(groups.MAX_GROUPS)]
    (picture,) = forest.drawings(material(fomaml=(run(rows),)), looks_of(["fomaml"]))
    assert picture.title.endswith("by site; the 24 largest of 30 groups are shown")
    many = dict.fromkeys(("local", "fedavg", "fomaml", "maml", "reptile", "anil"), (run(rows),))
    (found,) = groups.forests(material(**many))
    assert len(found.groups) == groups.MAX_LINES // len(many)


def test_groups_and_marks_are_in_the_picture_its_words_and_its_numbers() -> None:
    rows = [row(0, 0.25, group="St. Gallen"), row(1, 0.75, group="Bern")]
    made = material(fomaml=(run(rows, [reference("base rate", {0: 0.5, 1: 0.5})]),))
    (picture,) = forest.drawings(made, looks_of(["fomaml"]))
    assert picture.name == "groups-site"
    assert picture.alternative == (
        "Bern: FOMAML 0.750, base rate 0.500; St. Gallen: FOMAML 0.250, base rate 0.500."
    )
    assert ("site", "Bern", 1, "fomaml", 0.75, None, None) in picture.rows
    letters = finished(picture).svg
    for text in (">St. Gallen<", ">base rate<", ">accuracy (better: right)<"):
        assert text in letters


def test_further_metrics_have_figures_of_their_own_in_another_section() -> None:
    rows = [row(at, 0.5, group=name, **{"auc:after": 0.6}) for at, name in enumerate("ab")]
    one = run(rows)
    one.summary["metrics"] = [
        {"name": "auc", "unit": "1", "better": "higher"},
        {"name": "examples", "unit": "1", "better": "neither"},
    ]
    found = [*forest.drawings(material(fomaml=(one,)), looks_of(["fomaml"]))]
    assert [(picture.name, picture.section) for picture in found] == [
        ("groups-site", "groups"),
        ("groups-site-auc", "groups-further"),
    ]


def test_names_with_numbers_are_in_the_order_of_their_numbers() -> None:
    names = ["ward 10", "ward 2", "3", "12", "ward", "2b"]
    made = material(fomaml=(run([row(at, 0.5, group=name) for at, name in enumerate(names)]),))
    (found,) = groups.forests(made)
    assert [*found.groups] == ["2b", "3", "12", "ward", "ward 2", "ward 10"]


def test_labels_that_share_a_file_name_have_a_picture_each(monkeypatch) -> None:
    rows = [
        row(at, 0.5) | {"groups": {"ward": f"{at}", "Ward": f"{at}", "性別": f"{at}"}}
        for at in (1, 2)
    ]
    made = material(fomaml=(run(rows),))
    of_groups = forest.drawings(made, looks_of(["fomaml"]))
    monkeypatch.setattr(figures, "_all", lambda _material: of_groups)
    names = [drawing.name for drawing in figures.draw(made)]
    assert names == ["groups-ward", "groups-ward-2", "groups-x"]
